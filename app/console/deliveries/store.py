"""SQL of the pages of deliveries.

A tenant may have millions of deliveries, so each statement reads a limited number of index entries. Deliveries that wait have
an index of their own. Deliveries that were given up have none: they are searched for among the tenant's newest deliveries.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from app.calls import ids
from app.console.page_size import PAGE_SIZE
from app.console.reads import fetch_with_time_limit
from app.database.pool import TransactionRunner
from app.deliveries.store import tenants_with_pending_deliveries_sql

MAX_COUNTED_DELIVERIES: Final = 1_000
"""Maximum number of waiting deliveries that the overview counts for one tenant."""
MAX_SEARCHED_DELIVERIES: Final = 10_000
"""Maximum number of a tenant's deliveries that are read for one page to find those that were given up."""
MAX_TENANTS: Final = 200
"""Maximum number of tenants on one page of the overview."""


@dataclass(frozen=True, slots=True)
class WaitingDeliverySummary:
    """What the overview shows about one tenant's waiting deliveries, of which at most MAX_COUNTED_DELIVERIES are counted."""

    tenant_id: str
    waiting: int
    retried: int
    """The number of waiting deliveries that have failed at least once."""
    oldest: datetime
    last_error: str | None
    """The error or the HTTP status of the last attempt that failed."""


@dataclass(frozen=True, slots=True)
class ListedDelivery:
    id: UUID
    call_id: UUID
    tenant_id: str
    event: str
    state: str
    attempts: int
    pending_since: datetime
    next_attempt_at: datetime | None
    last_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    held: bool
    """Whether the delivery waits for an earlier event of its call."""
    url: str | None
    sid: str | None
    to: str | None
    """The called address; None if the call was deleted."""
    from_: str | None

    @property
    def has_call(self) -> bool:
        """Whether the call still exists. It may have been deleted at the end of its retention period."""
        return self.to is not None

    @property
    def created_at(self) -> datetime:
        return ids.creation_time_of_id(self.id)


@dataclass(frozen=True, slots=True)
class GivenUpDeliveriesPage:
    """A page of deliveries that were given up, newest first."""

    lines: list[ListedDelivery]
    next_before: UUID | None
    """The next page lists deliveries whose ids are before this id. None means that this page is the last one."""
    searched_to: datetime | None
    """The creation time of the oldest delivery that was read, if MAX_SEARCHED_DELIVERIES ended the search; otherwise None."""


_DELIVERY_COLUMNS = """delivery.id, delivery.call_id, delivery.tenant_id, delivery.event, delivery.state, delivery.attempts,
    delivery.pending_since, delivery.next_attempt_at, delivery.last_attempt_at, delivery.last_status, delivery.last_error,
    delivery.held, coalesce(delivery.url, call.status_callback), call.sid, call."to", call."from" AS from_"""

_LIST_BACKLOGS = f"""
    WITH RECURSIVE {tenants_with_pending_deliveries_sql()}
    SELECT tenant.tenant_id, own.* FROM tenant CROSS JOIN LATERAL (
        SELECT count(*), count(*) FILTER (WHERE attempts > 0), min(pending_since),
            (array_agg(coalesce(last_error, last_status::text) ORDER BY last_attempt_at DESC) FILTER (WHERE attempts > 0))[1]
        FROM (
            SELECT attempts, pending_since, last_attempt_at, last_error, last_status FROM delivery
            WHERE delivery.tenant_id = tenant.tenant_id AND next_attempt_at IS NOT NULL
            ORDER BY next_attempt_at LIMIT {MAX_COUNTED_DELIVERIES}
        ) AS waiting
    ) AS own
    WHERE tenant.tenant_id IS NOT NULL LIMIT $2
"""

_LIST_WAITING = f"""
    SELECT {_DELIVERY_COLUMNS} FROM delivery LEFT JOIN call ON call.id = delivery.call_id
    WHERE delivery.tenant_id = $1 AND next_attempt_at IS NOT NULL AND (next_attempt_at, delivery.id) > ($2, $3)
    ORDER BY next_attempt_at, delivery.id LIMIT $4
"""

_LIST_GIVEN_UP = f"""
    WITH searched AS MATERIALIZED (
        SELECT id, call_id, at, state FROM delivery WHERE tenant_id = $1 AND (at, id) < ($2, $3)
        ORDER BY at DESC, id DESC LIMIT {MAX_SEARCHED_DELIVERIES}
    ), given_up AS MATERIALIZED (
        SELECT id, call_id, at FROM searched WHERE state = 'gave_up' ORDER BY at DESC, id DESC LIMIT $4
    ), place AS (
        SELECT count(*) AS searched, (array_agg(id ORDER BY at, id))[1] AS last_id FROM searched
    )
    SELECT place.searched, place.last_id, {_DELIVERY_COLUMNS}
    FROM place LEFT JOIN given_up ON true
        LEFT JOIN delivery ON delivery.call_id = given_up.call_id AND delivery.at = given_up.at AND delivery.id = given_up.id
        LEFT JOIN call ON call.id = given_up.call_id
    ORDER BY given_up.at DESC, given_up.id DESC
"""
_EARLIEST_TIME: Final = datetime.fromtimestamp(0, tz=UTC)
_LATEST_ID: Final = UUID(int=2**128 - 1)


async def find_call_id(database: TransactionRunner, tenant_id: str, delivery_id: UUID) -> UUID | None:
    """Returns the id of the delivery's call; None if the tenant has no such delivery."""
    statement = "SELECT call_id FROM delivery WHERE tenant_id = $1 AND at = $2 AND id = $3"
    rows = await fetch_with_time_limit(database, statement, tenant_id, ids.creation_time_of_id(delivery_id), delivery_id)
    return rows[0]["call_id"] if rows else None


async def summarize_waiting_by_tenant(
    database: TransactionRunner, *, after: str = ""
) -> tuple[list[WaitingDeliverySummary], bool]:
    """Returns what the overview shows about tenants with waiting deliveries, and whether there are more such tenants.

    The result has at most MAX_TENANTS tenants, in the order of their ids. It begins with the first id greater than `after`.
    """
    rows = await fetch_with_time_limit(database, _LIST_BACKLOGS, after, MAX_TENANTS + 1)
    return [WaitingDeliverySummary(*row) for row in rows[:MAX_TENANTS]], len(rows) > MAX_TENANTS


async def list_waiting_deliveries(
    database: TransactionRunner, tenant_id: str, *, after: tuple[datetime, UUID] | None = None
) -> tuple[list[ListedDelivery], bool]:
    """Returns a page of the tenant's waiting deliveries, and whether another page follows.

    The deliveries are sorted by the time of their next attempt. `after` is the `next_attempt_at` and the id of the last
    delivery on the previous page; None for the first page.
    """
    at, delivery_id = after or (_EARLIEST_TIME, UUID(int=0))
    rows = await fetch_with_time_limit(database, _LIST_WAITING, tenant_id, at, delivery_id, PAGE_SIZE + 1)
    return [ListedDelivery(*row) for row in rows[:PAGE_SIZE]], len(rows) > PAGE_SIZE


async def list_given_up_deliveries(
    database: TransactionRunner, tenant_id: str, *, before: UUID | None = None
) -> GivenUpDeliveriesPage:
    """Returns a page of the tenant's given-up deliveries. If `before` is given, all their ids are lower than `before`.

    Reads at most MAX_SEARCHED_DELIVERIES of the tenant's deliveries, the newest first, so the page may have few lines or none.
    """
    last = before or _LATEST_ID
    rows = await fetch_with_time_limit(database, _LIST_GIVEN_UP, tenant_id, ids.creation_time_of_id(last), last, PAGE_SIZE + 1)
    searched, last_id = rows[0][:2]
    lines = [ListedDelivery(*row[2:]) for row in rows if row[2] is not None]
    if len(lines) > PAGE_SIZE:
        return GivenUpDeliveriesPage(lines[:PAGE_SIZE], lines[PAGE_SIZE - 1].id, None)
    if searched < MAX_SEARCHED_DELIVERIES:
        return GivenUpDeliveriesPage(lines, None, None)
    return GivenUpDeliveriesPage(lines, last_id, ids.creation_time_of_id(last_id))
