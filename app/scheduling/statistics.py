"""Reads over the scheduled calls of all tenants, for gauges. Changes nothing.

Each statement skips from one group of calls to the next in an index, and reads a bounded number of entries of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.scheduling.accounts import accounts_of
from app.scheduling.store import Statements

COUNTED = 10_000
"""The most calls of one priority, dial slots, and groups of calls that are read."""

_WAITING = f"""
    {accounts_of("scheduled_dial")}
    SELECT place.priority, (
        SELECT count(*) FROM (
            SELECT FROM account CROSS JOIN LATERAL (
                SELECT FROM scheduled_dial AS dial
                WHERE dial.account_id = account.account_id AND dial.priority = place.priority
                ORDER BY dial.caller_id, dial.queue_id, dial.due_at LIMIT {COUNTED}
            ) AS own LIMIT {COUNTED}
        ) AS counted
    ) AS waiting
    FROM generate_series(0, $1::int - 1) AS place (priority)
"""  # noqa: S608  # own constants

# The first call of each account, priority, caller and queue.
_GROUP = "account_id, priority, caller_id, queue_id"
_OLDEST_DUE = f"""
    WITH RECURSIVE first AS (
        (SELECT {_GROUP}, due_at FROM scheduled_dial ORDER BY {_GROUP}, due_at LIMIT 1)
        UNION ALL
        SELECT further.* FROM first CROSS JOIN LATERAL (
            SELECT {_GROUP}, due_at FROM scheduled_dial AS dial
            WHERE ({_GROUP}) > (first.account_id, first.priority, first.caller_id, first.queue_id)
            ORDER BY {_GROUP}, due_at LIMIT 1
        ) AS further
    )
    SELECT first.priority::int AS priority, extract(epoch FROM clock_timestamp() - min(first.due_at))::float8 AS seconds
    FROM (SELECT * FROM first LIMIT {COUNTED}) AS first
        JOIN twilio_account ON twilio_account.id = first.account_id JOIN tenant ON tenant.id = twilio_account.tenant_id
        LEFT JOIN queue ON queue.id = first.queue_id
    WHERE first.due_at <= clock_timestamp() AND tenant.suspended_at IS NULL AND queue.paused IS NOT TRUE
    GROUP BY first.priority
"""  # noqa: S608  # own constants
_SLOTS = f"""
    SELECT count(*) AS taken FROM (SELECT FROM dial_slot WHERE until > clock_timestamp() LIMIT {COUNTED}) AS counted
"""  # noqa: S608  # own constants


@dataclass(frozen=True, slots=True)
class SchedulingBacklog:
    """What waits to be dialled. Priorities are their places in PRIORITIES; at most COUNTED calls of each are counted."""

    waiting: Mapping[int, int]
    """The number of waiting calls of each priority."""
    oldest_due_s: Mapping[int, float]
    """For how long the call of each priority that waits longest has been due, without paused queues and suspended tenants."""
    slots: int


async def scheduling_backlog(database: Statements, *, priorities: int) -> SchedulingBacklog:
    """Measures the scheduled calls of the priorities 0 to `priorities` - 1, and the dial slots that are taken."""
    waiting = await database.fetch(_WAITING, priorities)
    oldest = await database.fetch(_OLDEST_DUE)
    (slots,) = await database.fetch(_SLOTS)
    return SchedulingBacklog(
        waiting={row["priority"]: row["waiting"] for row in waiting},
        oldest_due_s={row["priority"]: row["seconds"] for row in oldest},
        slots=slots["taken"],
    )
