"""Counts the scheduled calls of all tenants, for metrics. Changes nothing.

Each statement reads a limited number of index entries for each group of calls, such as those of one account and priority. So
it does not slow down when many calls of a group wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.database.pool import StatementRunner
from app.scheduling.accounts import accounts_with_rows_sql

MAX_COUNTED_BACKLOG_ROWS = 10_000
"""The maximum number of rows that one statement counts: calls of one priority, dial slots, or groups of calls."""

_COUNT_WAITING = f"""
    {accounts_with_rows_sql("scheduled_dial")}
    SELECT place.priority, (
        SELECT count(*) FROM (
            SELECT FROM account CROSS JOIN LATERAL (
                SELECT FROM scheduled_dial AS dial
                WHERE dial.account_id = account.account_id AND dial.priority = place.priority
                ORDER BY dial.caller_id, dial.queue_id, dial.due_at LIMIT {MAX_COUNTED_BACKLOG_ROWS}
            ) AS own LIMIT {MAX_COUNTED_BACKLOG_ROWS}
        ) AS counted
    ) AS waiting
    FROM generate_series(0, $1::int - 1) AS place (priority)
"""  # noqa: S608  # own constants

# Finds the first call of each group, which is an account, a priority, an API key or workload, and a queue.
_GROUP_COLUMNS = "account_id, priority, caller_id, queue_id"
_OLDEST_DUE = f"""
    WITH RECURSIVE first AS (
        (SELECT {_GROUP_COLUMNS}, due_at FROM scheduled_dial ORDER BY {_GROUP_COLUMNS}, due_at LIMIT 1)
        UNION ALL
        SELECT further.* FROM first CROSS JOIN LATERAL (
            SELECT {_GROUP_COLUMNS}, due_at FROM scheduled_dial AS dial
            WHERE ({_GROUP_COLUMNS}) > (first.account_id, first.priority, first.caller_id, first.queue_id)
            ORDER BY {_GROUP_COLUMNS}, due_at LIMIT 1
        ) AS further
    )
    SELECT first.priority::int AS priority, extract(epoch FROM now() - min(first.due_at))::float8 AS seconds
    FROM (SELECT * FROM first LIMIT {MAX_COUNTED_BACKLOG_ROWS}) AS first
        JOIN twilio_account ON twilio_account.id = first.account_id JOIN tenant ON tenant.id = twilio_account.tenant_id
        LEFT JOIN queue ON queue.id = first.queue_id
    WHERE first.due_at <= now() AND tenant.suspended_at IS NULL AND queue.paused IS NOT TRUE
    GROUP BY first.priority
"""  # noqa: S608  # own constants
_COUNT_SLOTS = f"""
    SELECT count(*) AS taken FROM (SELECT FROM dial_slot WHERE until > now() LIMIT {MAX_COUNTED_BACKLOG_ROWS}) AS counted
"""  # noqa: S608  # own constants


@dataclass(frozen=True, slots=True)
class SchedulingBacklog:
    """The numbers of waiting scheduled calls and of dial slots in use, and how long the oldest due calls have been due.

    The keys of both mappings are indexes in PRIORITIES. No count is higher than MAX_COUNTED_BACKLOG_ROWS.
    """

    waiting_by_priority: Mapping[int, int]
    """The number of waiting calls of each priority."""
    oldest_due_s: Mapping[int, float]
    """Seconds since the oldest due call of each priority became due, without calls of paused queues and suspended tenants."""
    slots_in_use: int
    """The number of dial slots in use. A dial slot stands for one concurrent call."""


async def read_scheduling_backlog(database: StatementRunner, *, priority_count: int) -> SchedulingBacklog:
    """Counts the waiting calls of each priority and the dial slots (concurrent calls) in use, and finds the oldest due calls.

    Priorities have the indexes 0 to `priority_count` - 1.
    """
    waiting = await database.fetch(_COUNT_WAITING, priority_count)
    oldest = await database.fetch(_OLDEST_DUE)
    (slots,) = await database.fetch(_COUNT_SLOTS)
    return SchedulingBacklog(
        waiting_by_priority={row["priority"]: row["waiting"] for row in waiting},
        oldest_due_s={row["priority"]: row["seconds"] for row in oldest},
        slots_in_use=slots["taken"],
    )
