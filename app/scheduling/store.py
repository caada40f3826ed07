"""SQL, without SQLAlchemy, for the creation of calls: reads settings of queues, and pauses the dialling of an account."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.database.pool import StatementRunner
from app.scheduling.hours import CallingHours, parse_calling_hours
from app.scheduling.models import NO_QUEUE
from app.scheduling.pace import MAX_PAUSE_S, next_at_for_pause_sql


@dataclass(frozen=True, slots=True)
class QueueDialSettings:
    """The settings of a queue that decide when a new scheduled call may be dialled."""

    id: UUID
    ring_within_s: int | None
    hours: CallingHours | None
    """The hours of the queue or, if it has none, of the tenant. The value is None if neither has hours."""
    hours_json: str | None
    """The same hours as the JSON that is stored."""
    read_at: datetime
    """The time of the read by Postgres's clock, which also decides when the queue's calls may be dialled, and expire."""


_FIND_QUEUE = """
    SELECT queue.id, ring_within_s, coalesce(queue.hours, tenant.hours) AS hours, clock_timestamp() AS read_at
    FROM tenant LEFT JOIN queue ON queue.tenant_id = tenant.id AND queue.name = $2 WHERE tenant.id = $1
"""


async def find_dial_settings_of_queues(
    database: StatementRunner, wanted: Sequence[tuple[str, str | None]]
) -> list[QueueDialSettings | None]:
    """Returns the settings of the queue of each pair of tenant id and queue name in `wanted`, in that order.

    An item is None if there is no such queue or tenant. A queue name may be None, as in `find_queue_dial_settings`.
    """
    found = {each: await find_queue_dial_settings(database, *each) for each in set(wanted)}
    return [found[each] for each in wanted]


async def find_queue_dial_settings(database: StatementRunner, tenant_id: str, name: str | None) -> QueueDialSettings | None:
    """Returns the settings of the tenant's queue with this name; None if there is no such queue or tenant.

    If `name` is None, returns a QueueDialSettings for calls in no queue: its id is NO_QUEUE, and its hours are the tenant's.
    """
    rows = await database.fetch(_FIND_QUEUE, tenant_id, name)
    if not rows or (name is not None and rows[0]["id"] is None):
        return None
    row = rows[0]
    hours = None if row["hours"] is None else parse_calling_hours(json.loads(row["hours"]))
    return QueueDialSettings(row["id"] or NO_QUEUE, row["ring_within_s"], hours, row["hours"], row["read_at"])


_PAUSE_PACE = f"""
    UPDATE pace SET next_at = {next_at_for_pause_sql("now() + make_interval(secs => $2::float8)")}
    WHERE subject_id = $1 AND calls_per_second IS NOT NULL
"""  # noqa: S608  # own fragments


async def pause_account_dialling(database: StatementRunner, account_id: UUID, *, queue_time_ms: int) -> None:
    """Stops the account from dialling calls for `queue_time_ms`, at most for a minute.

    `queue_time_ms` is Twilio's estimate of how long a call waits in Twilio's own queue. Has no effect on an account without
    `calls_per_second`. Runs in its own transaction.
    """
    await database.fetch(_PAUSE_PACE, account_id, min(queue_time_ms / 1000, MAX_PAUSE_S))
