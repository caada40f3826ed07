"""Claims due deliveries with all that is needed to send them, and records the results. Each batch takes one statement."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import lru_cache
from json import loads
from typing import Any, Final
from uuid import UUID

from pydantic_core import to_json

from app.calls.last_answer import CallRow, attributes_to_select
from app.calls.models import Call
from app.calls.schemas import CallRecord
from app.database.engine import Database
from app.database.partitions import MonthRange
from app.deliveries.stored_fields import StoredCallbackFields, webhook_id

MAX_ATTEMPTS_HOLDING_LATER_EVENTS: Final = 2
"""The later events of a call wait for a pending event until this many attempts to deliver it have failed."""

_HELD_RECHECK_AFTER = timedelta(seconds=30)
# A delivery waits for an earlier one of its call only if both were written within this time, as those of one call normally are.
# This limits the partitions that are read.
_ORDERED_DELIVERIES_WITHIN = timedelta(days=30)
# The statements of this module have months as constants, so that Postgres leaves other partitions out when it plans a
# statement, once for each connection. The number of partitions then costs nothing.
#
# No statement that locks rows of a partitioned table compares `at` with a value of another row. Postgres would then choose the
# partitions while it executes the statement, and Postgres 18.6 crashes there if another session has changed one of the rows
# meanwhile (perform_pruning_base_step after EvalPlanQual; seen in tests.proofs.storm). The difference of two times chooses no
# partitions, so it may be compared.
#
# Their commits are not flushed, which saves a write to disk for each claim and each batch of results. If Postgres crashes soon
# after, these claims and results are lost, so the deliveries are sent again, as after a crash of the worker.
_ASYNC_COMMIT_SQL = "set_config('synchronous_commit', 'off', true)"
_RECORD_COLUMNS = {name: Call.__mapper__.columns[name].name for name in attributes_to_select(tuple(CallRecord.model_fields))}
_JSON_COLUMNS = ("parameters", "warnings", "problem", "own_subresource_uris", "stored_resource_members")


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A due delivery that this worker has claimed.

    If the delivery is `held`, it waits for an earlier event of its call and must not be sent yet. Otherwise, no other worker
    claims it for a limited time, its lease.
    """

    id: UUID
    call_id: UUID
    at: datetime
    tenant_id: str
    event: str
    position: int
    sequence: int | None
    webhook_id: str
    pending_since: datetime
    attempts: int
    held: bool
    url: str | None
    """None if retention has deleted the call, or if the call has no URL any more."""
    method: str | None
    fields: Mapping[str, str] | None
    """None if retention has deleted the call or the event."""
    traceparent: str | None
    record: CallRow | None
    """The call's row with the attributes of `CallRecord`; None if retention has deleted the call."""


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """The result of one attempt at a delivery.

    `retry_in` is the time until the next attempt. It is None if the delivery was delivered or is given up.
    """

    delivery: ClaimedDelivery
    is_delivered: bool
    status: int | None
    error: str | None
    retry_in: timedelta | None

    def result_row(self) -> dict[str, Any]:
        delivery = self.delivery
        state = "delivered" if self.is_delivered else "gave_up" if self.retry_in is None else "pending"
        wait_s = None if self.retry_in is None else self.retry_in.total_seconds()
        key = {"id": delivery.id, "call_id": delivery.call_id, "at": delivery.at}
        return key | {"state": state, "status": self.status, "error": self.error, "wait_s": wait_s}


_FIELDS_WITHOUT_COLUMN = ("webhook_id", "url", "method", "fields", "traceparent", "record")
_CLAIMED_DELIVERY_COLUMNS = [each.name for each in fields(ClaimedDelivery) if each.name not in _FIELDS_WITHOUT_COLUMN]


def tenants_with_pending_deliveries_sql(condition: str = "true") -> str:
    """Returns the recursive CTE `tenant`: the ids of tenants that have pending deliveries, in order, beginning after the id $1.

    The last row is null. The query jumps from one tenant to the next in an index, so it takes no longer if a tenant has many
    deliveries. `condition` is SQL that chooses the deliveries, for example those of some months.
    """
    # The order by `next_attempt_at` decides nothing, but only the index of pending deliveries has it.
    return f"""tenant AS (
        (SELECT tenant_id FROM delivery WHERE next_attempt_at IS NOT NULL AND {condition} AND tenant_id > $1
         ORDER BY tenant_id, next_attempt_at LIMIT 1)
        UNION ALL
        SELECT (SELECT further.tenant_id FROM delivery further
                WHERE further.next_attempt_at IS NOT NULL AND {condition} AND further.tenant_id > tenant.tenant_id
                ORDER BY further.tenant_id, further.next_attempt_at LIMIT 1)
        FROM tenant WHERE tenant.tenant_id IS NOT NULL
    )"""  # noqa: S608  # a condition from this module


@lru_cache(maxsize=4)
def _claim_deliveries_sql(months: MonthRange | None) -> str:
    """Returns the statement that claims due deliveries of `months`; None: of all months.

    The statement marks a claimed delivery as `held` if it must wait for an earlier delivery of its call. It must wait while the
    earlier one is pending and has failed fewer than MAX_ATTEMPTS_HOLDING_LATER_EVENTS times. It does not wait for the
    deliveries in $7, nor for those that were written more than $8 before or after it.

    The parameters of the statement:

    - $1: the tenant id to begin after. $2: the tenants to leave out.
    - $3: the maximum number of rows for each tenant. $4: the maximum number of rows in all. $4 also limits the number of
      tenants that are read, because each of them costs a scan of every partition.
    - $5: the lease, the time until a claimed delivery is due again. $6: the same time for a held delivery.
    - $7: deliveries that were delivered or given up, which is not recorded yet. $8: _ORDERED_DELIVERIES_WITHIN.
    """
    due_months = months.condition_sql("at") if months else "true"
    # The months of the other deliveries of the same calls.
    all_months = months.with_earlier_start(_ORDERED_DELIVERIES_WITHIN).condition_sql("at") if months else "true"
    return f"""
        WITH RECURSIVE {tenants_with_pending_deliveries_sql(due_months)}, due AS (
            SELECT own.call_id, own.id, own.at, own.position
            FROM tenant CROSS JOIN LATERAL (
                SELECT call_id, id, at, position FROM delivery
                WHERE tenant_id = tenant.tenant_id AND tenant_id <> ALL($2::text[])
                AND {due_months} AND next_attempt_at <= now()
                ORDER BY next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED
            ) AS own
            LIMIT $4
        ), checked AS MATERIALIZED (
            SELECT due.call_id, due.id, EXISTS (
                SELECT FROM delivery
                WHERE delivery.call_id = due.call_id AND delivery.position < due.position AND {all_months}
                AND delivery.state = 'pending' AND delivery.attempts < {MAX_ATTEMPTS_HOLDING_LATER_EVENTS}
                AND delivery.id <> ALL($7::uuid[]) AND delivery.at - due.at BETWEEN -$8::interval AND $8::interval
            ) AS held
            FROM due
        ), claimed AS (
            UPDATE delivery SET held = checked.held,
                next_attempt_at = now() + CASE WHEN checked.held THEN $6::interval ELSE $5::interval END
            FROM checked WHERE delivery.call_id = checked.call_id AND delivery.id = checked.id AND {due_months}
            RETURNING delivery.*
        ), event AS (
            SELECT call_id, id, data, data_left_out FROM call_event WHERE {all_months}
        )
        SELECT {", ".join(f"claimed.{name}" for name in _CLAIMED_DELIVERY_COLUMNS)}, claimed.webhook_id,
            coalesce(claimed.url, call.status_callback) AS url, coalesce(claimed.method, call.status_callback_method) AS method,
            coalesce(claimed.fields, event.data) AS fields, event.data_left_out,
            call.traceparent, call.id IS NOT NULL AS has_record,
            {", ".join(f'call."{column}" AS record_{name}' for name, column in _RECORD_COLUMNS.items())}, {_ASYNC_COMMIT_SQL}
        FROM claimed LEFT JOIN call ON call.id = claimed.call_id
            LEFT JOIN event ON claimed.fields IS NULL AND event.call_id = claimed.call_id AND event.id = claimed.id
        ORDER BY claimed.tenant_id
    """  # noqa: S608  # column names and conditions from this module


@lru_cache(maxsize=64)
def _record_attempts_sql(months: MonthRange) -> str:
    """Returns the statement that records the results of attempts at deliveries that were written in these months.

    The statement ignores the result of a delivery that is no longer pending, for example because its lease has ended and
    another worker has sent it. It also makes a `held` delivery due if it need not wait for an earlier event of its call any
    more. It locks all pending deliveries of the calls in a fixed order, which prevents deadlocks. If another worker is about to
    mark one as held, the statement waits, and then sees the mark.
    """
    in_months = months.condition_sql("delivery.at")
    return f"""
        WITH given AS MATERIALIZED (
            SELECT * FROM jsonb_to_recordset($1::jsonb)
                AS given (id uuid, call_id uuid, at timestamptz, state text, status int, error text, wait_s float8)
        ), locked AS MATERIALIZED (
            SELECT call_id, at, id, position, attempts, held FROM delivery
            WHERE call_id = ANY($2::uuid[]) AND {in_months} AND state = 'pending'
            ORDER BY call_id, position, id FOR UPDATE
        ), ended AS MATERIALIZED (
            SELECT given.*, locked.attempts + 1 AS attempts FROM given JOIN locked USING (call_id, at, id)
        ), recorded AS (
            UPDATE delivery SET state = ended.state, attempts = ended.attempts, last_attempt_at = now(),
                last_status = ended.status, last_error = ended.error,
                next_attempt_at = now() + make_interval(secs => ended.wait_s),
                delivered_at = CASE WHEN ended.state = 'delivered' THEN now() ELSE delivered_at END
            FROM ended WHERE delivery.call_id = ended.call_id AND delivery.id = ended.id AND {in_months}
        ), released AS (
            UPDATE delivery SET held = false, next_attempt_at = now()
            FROM locked WHERE delivery.call_id = locked.call_id AND delivery.id = locked.id AND {in_months}
            AND locked.held AND locked.id NOT IN (SELECT id FROM ended) AND NOT EXISTS (
                SELECT FROM locked earlier LEFT JOIN ended ON ended.id = earlier.id
                WHERE earlier.call_id = locked.call_id AND earlier.position < locked.position
                AND coalesce(ended.state, 'pending') = 'pending'
                AND coalesce(ended.attempts, earlier.attempts) < {MAX_ATTEMPTS_HOLDING_LATER_EVENTS}
            )
            RETURNING delivery.id
        )
        SELECT count(*) AS released, {_ASYNC_COMMIT_SQL} FROM released
    """  # noqa: S608  # conditions from this module


async def claim_deliveries(
    database: Database,
    *,
    months: MonthRange | None,
    lease: timedelta,
    limit: int,
    per_tenant: int,
    busy_tenant_ids: Collection[str],
    finished_delivery_ids: Collection[UUID] = (),
    after_tenant_id: str = "",
) -> list[ClaimedDelivery]:
    """Claims due deliveries: at most `limit` in all, at most `per_tenant` for each tenant, and none for `busy_tenant_ids`.

    Until `lease` has passed, no other worker claims a returned delivery, unless the delivery is `held`. A `held` delivery must
    wait for an earlier event of its call. It is due again when the result of the earlier delivery is recorded, and after
    _HELD_RECHECK_AFTER at the latest. The result is ordered by tenant, from the first tenant id greater than `after_tenant_id`.

    Reads only the partitions of `months`; None: all. `finished_delivery_ids` has the ids of deliveries that were delivered or
    given up, but are not recorded yet. Such deliveries do not hold back later events.
    """
    statement = _claim_deliveries_sql(months)
    given = (
        after_tenant_id,
        list(busy_tenant_ids),
        per_tenant,
        limit,
        lease,
        _HELD_RECHECK_AFTER,
        list(finished_delivery_ids),
        _ORDERED_DELIVERIES_WITHIN,
    )
    rows = await database.fetch(statement, *given)
    return [_claimed_delivery(row) for row in rows]


async def record_attempts(
    database: Database, attempts: Sequence[DeliveryAttempt], *, held: Sequence[ClaimedDelivery] = ()
) -> int:
    """Records the results of attempts. Deliveries that waited for these attempts, and need not wait any more, become due.

    Returns the number of deliveries that became due in this way. `held` are waiting deliveries that `claim_deliveries` has just
    returned. They are checked again, because another worker may have recorded the result of the earlier event at the same time.
    """
    concerned = [*held, *(attempt.delivery for attempt in attempts)]
    times = [delivery.at for delivery in concerned]
    months = MonthRange.from_first_to_last(min(times) - _ORDERED_DELIVERIES_WITHIN, max(times) + _ORDERED_DELIVERIES_WITHIN)
    calls = list({delivery.call_id for delivery in concerned})
    given = to_json([attempt.result_row() for attempt in attempts]).decode()
    (row,) = await database.fetch(_record_attempts_sql(months), given, calls)
    return int(row["released"])


def _claimed_delivery(row: Mapping[str, Any]) -> ClaimedDelivery:
    own = {name: row[name] for name in (*_CLAIMED_DELIVERY_COLUMNS, "url", "method", "traceparent")}
    own["webhook_id"] = row["webhook_id"] or webhook_id(row["call_id"], row["event"])
    record = _call_row(row) if row["has_record"] else None
    given = None if row["fields"] is None else StoredCallbackFields(loads(row["fields"]), row["data_left_out"])
    if given is not None and given.left_out:
        return ClaimedDelivery(**own, fields=given.restore_left_out_fields(record) if record else None, record=record)
    return ClaimedDelivery(**own, fields=given.data if given else None, record=record)


def _call_row(row: Mapping[str, Any]) -> CallRow:
    record = {name: row[f"record_{name}"] for name in _RECORD_COLUMNS}
    return CallRow(record | {name: record[name] and loads(record[name]) for name in _JSON_COLUMNS})
