"""Reads, in one SQL statement, what the page *Now* says about calls and about the things that need attention.

Every part of the statement reads a limited number of index entries. Without a `tenant_id`, the facts are about all tenants.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import TypeAdapter

from app.callgate_error import EXECUTIONS
from app.console.now.figure_store import MINUTE_FIGURES_SINCE_SQL
from app.console.reads import fetch_with_time_limit
from app.database.heartbeats import WORKER_SUMMARY_SQL, WorkerSummary
from app.database.pool import TransactionRunner
from app.rollups.models import ALL_TENANTS, CANCELED_SQL, HAS_CALLBACK_SQL, callback_missing_sql
from app.scheduling.accounts import accounts_with_rows_sql
from app.scheduling.grant_halt_sql import MAY_TAKE_GRANTS_SQL
from app.scheduling.grant_halts import HaltReason

MAX_COUNTED_ROWS: Final = 10_000
"""Maximum number of rows of one kind, such as calls whose outcome is unknown, that are counted."""
MAX_UNCOUNTED_CALLS_READ: Final = 1_000
"""Maximum number of calls that are read one by one, because no worker has counted them in the figures yet."""
MAX_LISTED_ROWS: Final = 20
"""Maximum number of credentials, and of queues, that are shown."""


@dataclass(frozen=True, slots=True)
class WaitingCount:
    """The number of items that wait, counted up to MAX_COUNTED_ROWS. `since` is when the oldest counted one began to wait."""

    number: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class WaitingQueue:
    """A queue in which calls wait. `number` is the number of these calls, counted up to MAX_COUNTED_ROWS.

    `last_due_at` is the time at which the last waiting call is due to be dialled. A call expires if it is not dialled by its
    `ring_by`. `last_ring_by` is the latest `ring_by` of the counted calls and of the call that is due last.
    """

    tenant_id: str
    name: str
    paused: bool
    is_tenant_suspended: bool
    has_hours: bool
    number: int
    last_due_at: datetime
    last_ring_by: datetime
    calls_per_second: float | None
    """The maximum rate of the queue or that of its account, whichever is lower; None if neither has a limit."""


@dataclass(frozen=True, slots=True)
class RejectedCredential:
    """A credential that Twilio has refused.

    `others` is the number of other credentials of the account that were neither refused by Twilio nor revoked.
    """

    tenant_id: str
    account_sid: str
    username: str
    rejected_at: datetime
    others: int


@dataclass(frozen=True, slots=True)
class CallsMissingAtTwilio:
    """The calls that count as concurrent calls of their account and queue, although Twilio answers that it has no such call.

    `number` is the number of these calls, counted up to MAX_COUNTED_ROWS. `oldest` is the id of the call that Twilio has not
    found for the longest time. `since` is when Twilio began to answer that it does not have this call.
    """

    number: int
    since: datetime | None
    oldest: UUID | None


@dataclass(frozen=True, slots=True)
class LastHourCallCounts:
    """The numbers of calls that were requested in the last hour. The first five are numbers by `execution`.

    `not_started` leaves out the calls that somebody canceled before they were dialled. `called_back` is the number of started
    calls for which a callback has arrived. `callback_missing` is the number of started calls for which a callback is expected
    and none has arrived. `server_errors` counts the calls that Twilio answered with a 5xx status, but only those of the minutes
    whose figures a worker has counted. `rolled_up` counts the started, not started and unknown calls of the same minutes.
    """

    scheduled: int = 0
    pending: int = 0
    started: int = 0
    not_started: int = 0
    unknown: int = 0
    server_errors: int = 0
    called_back: int = 0
    callback_missing: int = 0
    rolled_up: int = 0

    @property
    def settled_or_unknown_count(self) -> int:
        """The number of calls whose `execution` is `started`, `not_started` (without the canceled ones) or `unknown`."""
        return self.started + self.not_started + self.unknown


@dataclass(frozen=True, slots=True)
class NowPageFacts:
    """What the page *Now* needs to know for its sentence about calls and for its list of what needs attention."""

    read_at: datetime
    has_tenants: bool
    has_calls: bool
    workers: WorkerSummary
    is_halted: bool
    """Whether all scheduled calls are halted, so that none of them is dialled (app.scheduling.grant_halts)."""
    halt_reason: HaltReason | None
    unknown: WaitingCount
    pending: WaitingCount
    waiting: int
    """The number of scheduled calls that wait to be dialled, counted up to MAX_COUNTED_ROWS."""
    last_grant_at: datetime | None
    """When a worker last took a grant (the right to dial a scheduled call); None if none has taken one yet."""
    queues: list[WaitingQueue]
    """Up to MAX_LISTED_ROWS queues in which calls wait, paused ones first, and one more if there are more."""
    missing: CallsMissingAtTwilio
    failing: WaitingCount
    """The deliveries (requests to tenants) that have failed and are tried again."""
    gave_up: int
    """The number of deliveries that were written in the last week and were given up."""
    price_given_up: int
    """The number of completed calls of the last week that have no price and are not read from Twilio again."""
    credentials: list[RejectedCredential]
    recent: LastHourCallCounts
    called_back_1_to_24_hours_ago: int
    """The number of started calls with a callback that were requested in the last day, but not in the last hour."""
    rolled_until: datetime | None
    """A worker has counted the figures of the minutes before this time; None before the first count."""
    took_s: float
    """Seconds that the database took for all facts."""


def _json_array_sql(rows: str) -> str:
    """Returns SQL for a JSON array of the rows that the statement `rows` returns."""
    return f"(SELECT coalesce(json_agg(row_to_json(each)), '[]') FROM ({rows}) AS each)"


def _waiting_count_sql(select: str) -> str:
    """Returns SQL for a WaitingCount as JSON. It counts the rows of the statement `select`, which have a column `since`."""
    count = "json_build_object('number', count(*), 'since', min(since))"
    return f"(SELECT {count} FROM ({select} LIMIT {MAX_COUNTED_ROWS}) AS counted)"


_COUNT_WAITING_CALLS_SQL: Final = f"""(
    SELECT count(*) FROM (
        SELECT FROM account CROSS JOIN LATERAL (
            SELECT FROM scheduled_dial AS dial WHERE dial.account_id = account.account_id LIMIT {MAX_COUNTED_ROWS}
        ) AS own LIMIT {MAX_COUNTED_ROWS}
    ) AS counted
)"""
_MISSING_CALLS_SQL: Final = f"""(
    SELECT json_build_object(
        'number', count(*), 'since', min(missing_since), 'oldest', (array_agg(call_id ORDER BY missing_since))[1]
    ) FROM (
        SELECT call_id, missing_since FROM dial_slot
        WHERE missing_since IS NOT NULL {{own}} ORDER BY missing_since LIMIT {MAX_COUNTED_ROWS}
    ) AS counted
)"""
_WAITING_QUEUES_SQL: Final = f"""
    SELECT queue.tenant_id, queue.name, queue.paused, tenant.suspended_at IS NOT NULL AS is_tenant_suspended,
        coalesce(queue.hours, tenant.hours) IS NOT NULL AS has_hours,
        counted.number, last.due_at AS last_due_at, greatest(last.ring_by, counted.ring_by) AS last_ring_by,
        (SELECT min(calls_per_second)::float8 FROM pace WHERE subject_id IN (queue.id, queued.account_id)) AS calls_per_second
    FROM (
        SELECT named.*, first.account_id FROM queue AS named CROSS JOIN LATERAL (
            SELECT account_id FROM scheduled_dial WHERE queue_id = named.id ORDER BY due_at LIMIT 1
        ) AS first WHERE true {{own}} ORDER BY paused DESC, named.id LIMIT {MAX_LISTED_ROWS + 1}
    ) AS queued JOIN queue ON queue.id = queued.id JOIN tenant ON tenant.id = queue.tenant_id
        CROSS JOIN LATERAL (
            SELECT due_at, ring_by FROM scheduled_dial WHERE queue_id = queue.id ORDER BY due_at DESC LIMIT 1
        ) AS last CROSS JOIN LATERAL (
            SELECT count(*) AS number, max(ring_by) AS ring_by FROM (
                SELECT ring_by FROM scheduled_dial WHERE queue_id = queue.id LIMIT {MAX_COUNTED_ROWS}
            ) AS waiting
        ) AS counted
    ORDER BY paused DESC, queue.id
"""
_REJECTED_CREDENTIALS_SQL: Final = f"""
    SELECT account.tenant_id, account.account_sid, credential.username, credential.rejected_at, (
        SELECT count(*) FROM twilio_credential AS other WHERE other.account_id = account.id
            AND other.revoked_at IS NULL AND other.rejected_at IS NULL
    ) AS others
    FROM twilio_account AS account JOIN twilio_credential AS credential ON credential.account_id = account.id
    WHERE credential.rejected_at IS NOT NULL AND credential.revoked_at IS NULL {{own}}
    ORDER BY credential.rejected_at DESC LIMIT {MAX_LISTED_ROWS}
"""
_SUMS_SQL: Final = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in LastHourCallCounts.__dataclass_fields__)
_ROLLUP_COLUMN_SQL: Final = {
    "not_started": "not_started - canceled AS not_started",
    "rolled_up": "started + not_started - canceled + unknown AS rolled_up",
}
# Ids begin with their time in milliseconds (app.calls.ids).
_FIRST_UNCOUNTED_ID_SQL: Final = """(
    SELECT (lpad(to_hex((extract(epoch FROM greatest(max(rolled_until), now() - interval '1 hour')) * 1000)::bigint), 12, '0')
        || repeat('0', 20))::uuid FROM rollup_progress
)"""
# The figures of minutes, and up to MAX_UNCOUNTED_CALLS_READ of the calls that were requested after the last of these minutes.
_LAST_HOUR_COUNTS_SQL: Final = f"""
    SELECT {_SUMS_SQL} FROM (
        SELECT {", ".join(_ROLLUP_COLUMN_SQL.get(name, name) for name in LastHourCallCounts.__dataclass_fields__)} FROM rollup
        WHERE {{figures}} AND seconds = 60 AND start >= now() - interval '1 hour'
        UNION ALL
        SELECT {", ".join(f"(execution = '{name}' AND NOT {CANCELED_SQL})::int" for name in EXECUTIONS)}, 0,
            ({HAS_CALLBACK_SQL})::int, ({callback_missing_sql("$1")})::int, 0
        FROM (
            SELECT execution, settled_by, callbacks_seen, parameters, account_id FROM call
            WHERE id >= {_FIRST_UNCOUNTED_ID_SQL} {{own}} LIMIT {MAX_UNCOUNTED_CALLS_READ}
        ) AS live
    ) AS every
"""
_PERIOD_CONDITIONS_BY_FIGURE: Final = {
    "gave_up": f"""seconds = 3600 AND start >= now() - interval '7 days' AND start < {MINUTE_FIGURES_SINCE_SQL}
        OR seconds = 60 AND start >= {MINUTE_FIGURES_SINCE_SQL}""",
    "price_given_up": "seconds = 3600 AND start >= now() - interval '7 days'",
    "called_back": "seconds = 60 AND start >= now() - interval '1 day' AND start < now() - interval '1 hour'",
}


def _read_facts_sql(*, of_tenant: bool) -> str:
    """Returns the SQL statement that reads the fields of NowPageFacts as one JSON object.

    $1 says whether Callgate has a public URL. If `of_tenant` is true, $2 is the tenant's id.
    """
    own = "AND tenant_id = $2" if of_tenant else ""
    own_account = "AND account_id IN (SELECT account_id FROM account)" if of_tenant else ""
    own_pace = "WHERE subject_id IN (SELECT account_id FROM account)" if of_tenant else ""
    figures = "rollup.tenant_id = $2" if of_tenant else f"rollup.tenant_id = '{ALL_TENANTS}'"
    of_one = "WITH RECURSIVE account AS (SELECT id AS account_id FROM twilio_account WHERE tenant_id = $2)"
    unknown, pending = (
        _waiting_count_sql(f"SELECT pending_since AS since FROM call WHERE execution = '{execution}' {own}")
        for execution in ("unknown", "pending")
    )
    gave_up, price_given_up, called_back = (
        f"(SELECT coalesce(sum({name}), 0) FROM rollup WHERE {figures} AND ({periods}))"
        for name, periods in _PERIOD_CONDITIONS_BY_FIGURE.items()
    )
    return f"""
        {of_one if of_tenant else accounts_with_rows_sql("scheduled_dial")}
        SELECT json_build_object(
            'read_at', clock_timestamp(),
            'has_tenants', EXISTS (SELECT FROM tenant),
            'has_calls', EXISTS (SELECT FROM call WHERE true {own}),
            'workers', (SELECT row_to_json(summary) FROM ({WORKER_SUMMARY_SQL}) AS summary),
            'is_halted', NOT coalesce({MAY_TAKE_GRANTS_SQL}, true),
            'halt_reason', (SELECT halt_reason FROM grant_guard WHERE id = 1),
            'unknown', {unknown},
            'pending', {pending},
            'waiting', {_COUNT_WAITING_CALLS_SQL},
            'last_grant_at', (SELECT max(granted_at) FROM pace {own_pace}),
            'missing', {_MISSING_CALLS_SQL.format(own=own_account)},
            'queues', {_json_array_sql(_WAITING_QUEUES_SQL.format(own=own))},
            'failing', (
                SELECT json_build_object('number', count(*), 'since', min(pending_since)) FROM (
                    SELECT attempts, pending_since FROM delivery WHERE next_attempt_at IS NOT NULL {own}
                    LIMIT {MAX_COUNTED_ROWS}
                ) AS counted WHERE attempts > 0
            ),
            'gave_up', {gave_up},
            'price_given_up', {price_given_up},
            'credentials', {_json_array_sql(_REJECTED_CREDENTIALS_SQL.format(own=own))},
            'recent', (SELECT row_to_json(sums) FROM ({_LAST_HOUR_COUNTS_SQL.format(figures=figures, own=own)}) AS sums),
            'called_back_1_to_24_hours_ago', {called_back},
            'rolled_until', (SELECT rolled_until FROM rollup_progress WHERE id = 1),
            'took_s', extract(epoch FROM clock_timestamp() - now())
        ) AS facts
    """


READ_FACTS_OF_TENANT_SQL: Final = _read_facts_sql(of_tenant=True)
READ_FACTS_OF_ALL_SQL: Final = _read_facts_sql(of_tenant=False)
_FACTS_ADAPTER: Final = TypeAdapter(NowPageFacts)


async def read_now_page_facts(database: TransactionRunner, tenant_id: str | None, *, has_public_url: bool) -> NowPageFacts:
    """Reads what the page *Now* shows about one tenant or, if `tenant_id` is None, about all tenants.

    `has_public_url` says whether Twilio can send callbacks to Callgate. Raises DatabaseUnavailable if the statement fails.
    """
    ((facts,),) = await (
        fetch_with_time_limit(database, READ_FACTS_OF_ALL_SQL, has_public_url)
        if tenant_id is None
        else fetch_with_time_limit(database, READ_FACTS_OF_TENANT_SQL, has_public_url, tenant_id)
    )
    return _FACTS_ADAPTER.validate_json(facts)
