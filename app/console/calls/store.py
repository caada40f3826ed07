"""SQL of the pages about calls. Every statement is limited to one tenant, unless an operator asks for all tenants.

The indexes that serve the filters begin with the tenant. For all tenants, a statement therefore reads a page of each tenant
from the index and merges these pages. This costs one look-up in the index for each tenant. A second index, without the
tenant, would make the creation of every call slower.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants; values are parameters.

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import from_json

from app.callgate_error import EXECUTIONS
from app.calls import ids
from app.calls.callback_fields import restore_callback_fields
from app.calls.last_answer import CallRow
from app.calls.models import Call
from app.console.calls.records import (
    CallHistory,
    CallListLine,
    ConcurrentCallRow,
    DeliveryRow,
    EventRow,
    PendingEndRequest,
    ScheduledDialRow,
)
from app.console.calls.search import CallListFilters, CallSearch, SearchKind
from app.console.page_size import PAGE_SIZE
from app.console.reads import fetch_with_time_limit
from app.database.pool import TransactionRunner

MAX_EVENTS = 200
"""Maximum number of events on the page of a call. If the call has more events, the page shows the earliest ones.

Events include callbacks, searches of Twilio's list of calls, and changes of the call.
"""
MAX_DELIVERIES = 100
"""Maximum number of deliveries on the page of a call.

If the call has more, the page shows those that report the earliest events.
"""

_CALL_LIST_COLUMNS = """call.id, call.tenant_id, call.created_at, call.execution, call.settled_by, call.status, call."to",
    call."from" AS from_, call.duration, call.price, call.price_unit, call.problem ->> 'slug' AS problem"""


_SEARCHED_COLUMNS: Mapping[SearchKind, tuple[str, ...]] = {
    "id": ("call.id",),
    "sid": ("call.sid",),
    "number": ('call."to"', 'call."from"'),
    "to": ('call."to"',),
    "from": ('call."from"',),
    "key": ("call.idempotency_key",),
}
# Literals, because Postgres uses a partial index only if it can prove that the query implies the index's condition.
_EXECUTION_CONDITIONS: Mapping[str, str] = {execution: f"call.execution = '{execution}'" for execution in EXECUTIONS}

_JSON_ATTRIBUTES = ("problem", "parameters", "warnings", "own_subresource_uris", "stored_resource_members")
_CALL_COLUMNS = ", ".join(f'call."{column.name}" AS {name}' for name, column in Call.__mapper__.columns.items())
_JSON_COLUMNS_OF_HISTORY = ("events", "deliveries", "pending_end", "dial", "slot")
_DELIVERY_COLUMNS = ", ".join(field.name for field in fields(DeliveryRow))
# Events and deliveries are written after their call, so older partitions are not read. A day allows for clocks that differ.
_ROWS_OF_CALL_SQL = "call_id = call.id AND at >= call.created_at - interval '1 day'"
_READ_CALL_HISTORY = f"""
    SELECT {_CALL_COLUMNS}, now() AS now, queue.name AS queue, coalesce(queue.paused, false) AS is_queue_paused,
        (SELECT id FROM call AS redial WHERE redial.redial_of = call.id) AS redial_id,
        (SELECT to_jsonb(wanted_update) FROM wanted_update WHERE call_id = call.id) AS pending_end,
        (SELECT to_jsonb(scheduled_dial) FROM scheduled_dial WHERE call_id = call.id) AS dial,
        (SELECT to_jsonb(dial_slot) FROM dial_slot WHERE call_id = call.id) AS slot,
        (SELECT jsonb_agg(to_jsonb(event) ORDER BY at, id) FROM (
            SELECT id, at, type, data, data_left_out FROM call_event WHERE {_ROWS_OF_CALL_SQL} ORDER BY at, id LIMIT $2
        ) AS event) AS events,
        (SELECT jsonb_agg(to_jsonb(each) ORDER BY position, at) FROM (
            SELECT position, {_DELIVERY_COLUMNS} FROM delivery WHERE {_ROWS_OF_CALL_SQL} ORDER BY position, at LIMIT $3
        ) AS each) AS deliveries
    FROM call LEFT JOIN queue ON queue.id = call.queue_id
    WHERE call.{{column}} = $1 {{only}}
"""
_EVENT_ADAPTER = TypeAdapter(EventRow)
_DELIVERY_ADAPTER = TypeAdapter(DeliveryRow)
_PENDING_END_ADAPTER = TypeAdapter(PendingEndRequest | None)
_DIAL_ADAPTER = TypeAdapter(ScheduledDialRow | None)
_SLOT_ADAPTER = TypeAdapter(ConcurrentCallRow | None)


async def list_calls(
    database: TransactionRunner, query: CallListFilters, *, tenant_id: str | None
) -> tuple[list[CallListLine], str | None]:
    """Returns a page of calls, newest first, and the cursor of the next page. The cursor is None on the last page.

    `tenant_id` limits the list to one tenant, even if the query names another tenant. For operators, `tenant_id` is None, which
    means all tenants. Raises DatabaseUnavailable with the reason `timeout` if the statement takes too long.
    """
    if tenant_id is not None and query.tenant not in (None, tenant_id):
        return [], None
    statement, values = list_calls_sql(query, tenant_id or query.tenant, limit=PAGE_SIZE + 1)
    rows = [CallListLine(**row) for row in await fetch_with_time_limit(database, statement, *values)]
    return rows[:PAGE_SIZE], ids.encode_call_cursor(rows[PAGE_SIZE - 1].id) if len(rows) > PAGE_SIZE else None


async def read_call_history(database: TransactionRunner, call_id: UUID | str, *, tenant_id: str | None) -> CallHistory | None:
    """Returns a call with its events and deliveries; None if the tenant has no such call.

    `call_id` is the id or the sid of the call.

    For operators, `tenant_id` is None, which means that the call may belong to any tenant.
    """
    column = "id" if isinstance(call_id, UUID) else "sid"
    statement = _READ_CALL_HISTORY.format(column=column, only="" if tenant_id is None else "AND call.tenant_id = $4")
    values = (call_id, MAX_EVENTS + 1, MAX_DELIVERIES + 1, *([] if tenant_id is None else [tenant_id]))
    rows = await fetch_with_time_limit(database, statement, *values)
    return _history_from_row(rows[0]) if rows else None


def _history_from_row(row: Mapping[str, Any]) -> CallHistory:
    values = dict(row)
    parts = {name: from_json(values.pop(name) or "null") for name in _JSON_COLUMNS_OF_HISTORY}
    of_history = {name: values.pop(name) for name in ("now", "queue", "is_queue_paused", "redial_id")}
    call = CallRow(values | {name: values[name] and from_json(values[name]) for name in _JSON_ATTRIBUTES})
    events = [_event_from_row(call, event) for event in parts["events"] or []]
    deliveries = [
        _DELIVERY_ADAPTER.validate_python(_delivery_with_url_and_method(call, each)) for each in parts["deliveries"] or []
    ]
    return CallHistory(
        call=call,
        events=events[:MAX_EVENTS],
        has_more_events=len(events) > MAX_EVENTS,
        deliveries=deliveries[:MAX_DELIVERIES],
        has_more_deliveries=len(deliveries) > MAX_DELIVERIES,
        pending_end=_PENDING_END_ADAPTER.validate_python(parts["pending_end"]),
        dial=_DIAL_ADAPTER.validate_python(parts["dial"]),
        slot=_SLOT_ADAPTER.validate_python(parts["slot"]),
        **of_history,
    )


def _event_from_row(call: CallRow, stored: dict[str, Any]) -> EventRow:
    """Returns the event that a database row (`stored`) contains.

    If the event records a callback, the row lacks the fields that are the same in every callback of the call. These fields are
    added to the event. Their values are taken from the call or are constants.
    """
    data = restore_callback_fields(call, stored["data"], stored.pop("data_left_out"))
    return _EVENT_ADAPTER.validate_python(stored | {"data": data})


def _delivery_with_url_and_method(call: CallRow, delivery: dict[str, Any]) -> dict[str, Any]:
    """Returns `delivery`, a database row, with the URL and the HTTP method with which the delivery is sent.

    If these are not in the row, they are the call's `status_callback` and `status_callback_method`.
    """
    target = {"url": delivery["url"] or call.status_callback, "method": delivery["method"] or call.status_callback_method}
    return delivery | target


class _SqlParameters(list[object]):
    """The values of a statement's parameters ($1, $2 …)."""

    def placeholder_for(self, value: object) -> str:
        """Adds a value, and returns its placeholder, such as `$3`."""
        self.append(value)
        return f"${len(self)}"


def list_calls_sql(query: CallListFilters, tenant_id: str | None, *, limit: int) -> tuple[str, _SqlParameters]:
    """Returns the SQL for a page of the list of calls, and the values of its parameters.

    If `tenant_id` is None, the list has the calls of all tenants.
    """
    values = _SqlParameters()
    newest = f"ORDER BY call.id DESC LIMIT {values.placeholder_for(limit)}"
    conditions = list(_filter_conditions(query, values))
    searches = [f"{column} = {values.placeholder_for(value)}" for column, value in _searched_column_values(query.search)]
    each_tenant = tenant_id is None and _has_index_by_tenant(query)
    owner = "tenant.id" if each_tenant else None if tenant_id is None else values.placeholder_for(tenant_id)
    if query.queue is not None:
        name = values.placeholder_for(query.queue)
        conditions.append(f"call.queue_id = (SELECT id FROM queue WHERE queue.tenant_id = {owner} AND queue.name = {name})")
    # A queue belongs to one tenant, so the condition on it suffices. With one on the tenant, Postgres might read all its calls.
    if owner is not None and (query.queue is None or searches):
        conditions.append(f"call.tenant_id = {owner}")
    pages = [
        f"SELECT call.id FROM call WHERE {' AND '.join([search, *conditions])} {newest}" for search in searches or ["true"]
    ]
    if each_tenant:
        pages = [f"SELECT newest.id FROM tenant CROSS JOIN LATERAL ({page}) AS newest" for page in pages]
    return (
        f"""
        SELECT {_CALL_LIST_COLUMNS}
        FROM (SELECT id FROM ({" UNION ".join(f"({page})" for page in pages)}) AS found ORDER BY id DESC LIMIT $1) AS page
        JOIN call ON call.id = page.id ORDER BY call.id DESC
        """,
        values,
    )


def _searched_column_values(search: CallSearch | None) -> Iterator[tuple[str, str]]:
    """Yields pairs of a column and a value.

    A call matches the search if the column of at least one pair has the value of this pair.

    For each of these columns there is an index that finds the calls, newest first.
    """
    if search is not None:
        for column in _SEARCHED_COLUMNS[search.kind]:
            for value in search.values:
                yield column, value


def _filter_conditions(query: CallListFilters, values: _SqlParameters) -> Iterator[str]:
    """Yields SQL conditions for the filters of the query, except for the search, the tenant and the queue.

    Appends to `values` the values to which the conditions refer.
    """
    if query.execution is not None:
        yield _EXECUTION_CONDITIONS[query.execution]
    if query.problem is not None:
        yield _EXECUTION_CONDITIONS["not_started"]
        yield f"call.problem ->> 'slug' = {values.placeholder_for(query.problem)}"
    if query.status is not None:
        yield f"call.status = {values.placeholder_for(query.status)}"
    if query.since is not None:
        yield f"call.id >= {values.placeholder_for(ids.lowest_call_id_at(query.since))}"
    if query.until is not None:
        yield f"call.id < {values.placeholder_for(ids.lowest_call_id_at(query.until))}"
    if query.before is not None:
        yield f"call.id < {values.placeholder_for(query.before)}"


def _has_index_by_tenant(query: CallListFilters) -> bool:
    """Returns whether an index that begins with the tenant serves the filters.

    Without such an index, Postgres reads the calls in the order of their ids.
    """
    if query.queue is not None:
        return True
    if query.search is not None:
        return query.search.kind not in ("id", "sid")
    return bool(query.status or query.problem or query.execution not in (None, "started"))
