"""Finds out with one SQL statement which jobs have due work, so that an idle worker costs little."""

from datetime import timedelta

from app.database.engine import Database

_DUE = """
    SELECT EXISTS (SELECT FROM call WHERE refresh_at <= now()) AS refresh,
        EXISTS (SELECT FROM call WHERE execution = 'pending' AND pending_since < now() - $1::interval) AS abandoned,
        EXISTS (SELECT FROM call WHERE search_at <= now()) AS search,
        EXISTS (SELECT FROM wanted_update WHERE due_at <= now()) AS control,
        EXISTS (SELECT FROM dial_slot WHERE ring_by <= now()) AS deadlines,
        EXISTS (SELECT FROM scheduled_dial) AS dial,
        EXISTS (SELECT FROM delivery WHERE next_attempt_at <= now()) AS deliver
"""


async def jobs_with_due_work(database: Database, *, abandoned_after: timedelta) -> set[str]:
    """Returns the names of the worker's jobs that have something to do now.

    `abandoned_after` is the longest time that a process works on a creation. A record that is pending for longer is abandoned:
    its outcome is set by a job.
    """
    (row,) = await database.fetch(_DUE, abandoned_after)
    return {name for name, is_due in row.items() if is_due}
