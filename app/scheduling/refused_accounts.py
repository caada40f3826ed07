"""SQL, without SQLAlchemy, that slows an account down while Twilio refuses its scheduled calls for the moment.

The account's row of `pace` has the time of the next probe. A probe is a call that is dialled alone, to find out whether Twilio
still refuses calls of the account. A worker takes a grant, the right to dial one call, before it dials.
"""

from datetime import timedelta
from uuid import UUID

from app.database.pool import StatementRunner

# The longest time between two probes, unless Twilio asks for more. Also the time after which another probe may be dialled if no
# result of the last one was written, for example because its worker has ended.
_MAX_WAIT_S = 60
_MAX_WAIT_ASKED_FOR_S = 15 * 60
# A refusal this long after the last probe was due is a new one: meanwhile no call of the account was due.
_FORGET_REFUSAL_AFTER_S = 5 * 60
# The wait is the time since the first refusal, so it about doubles with each probe.
_SLOW_DOWN = f"""
    UPDATE pace SET refused_since = coalesce(refused_since, clock.at),
        probe_at = greatest(
            CASE WHEN NOT $3 THEN probe_at END,
            clock.at + greatest(
                least($2::interval, make_interval(secs => {_MAX_WAIT_ASKED_FOR_S})),
                least(clock.at - coalesce(refused_since, clock.at), make_interval(secs => {_MAX_WAIT_S}))
            )
        )
    FROM (SELECT clock_timestamp() AS at) AS clock WHERE subject_id = $1 RETURNING refused_since = clock.at AS is_first
"""  # noqa: S608  # a constant
_ALLOW_NEXT_PROBE = "UPDATE pace SET probe_at = clock_timestamp() WHERE subject_id = $1 AND probe_at IS NOT NULL"
_RESUME = "UPDATE pace SET refused_since = NULL, probe_at = NULL WHERE subject_id = $1"


def _probe_waits_sql(at: str) -> str:
    """Returns SQL for whether the next probe must still wait for `probe_at`.

    If `probe_at` is too far ahead, Postgres's clock has stepped back. Then the probe does not wait.
    """
    return f"(pace.probe_at > {at} AND pace.probe_at <= {at} + make_interval(secs => {_MAX_WAIT_ASKED_FOR_S}))"


def allowed_probes_sql(at: str) -> str:
    """Returns SQL for how many grants may be taken at `at`: 0 or 1; null while Twilio does not refuse the account's calls."""
    return f"CASE WHEN {_probe_waits_sql(at)} THEN 0 WHEN pace.probe_at IS NOT NULL THEN 1 END"


def seconds_until_probe_sql(at: str) -> str:
    """Returns SQL for the seconds from `at` until the next probe. It gives null if there is nothing to wait for."""
    return f"CASE WHEN {_probe_waits_sql(at)} THEN extract(epoch FROM pace.probe_at - {at})::float8 END"


def probe_at_after_grant_sql(at: str) -> str:
    """Returns SQL for the new `probe_at` of the row `pace` after a worker has taken a grant at `at`."""
    return f"CASE WHEN pace.probe_at IS NOT NULL THEN {at} + make_interval(secs => {_MAX_WAIT_S}) END"


def refused_since_after_grant_sql(at: str) -> str:
    """Returns SQL for the new `refused_since` of the row `pace` after a worker has taken a grant at `at`."""
    return f"CASE WHEN pace.probe_at > {at} - make_interval(secs => {_FORGET_REFUSAL_AFTER_S}) THEN pace.refused_since END"


async def slow_account_down(database: StatementRunner, account_id: UUID, *, wait: timedelta, after_probe: bool) -> bool:
    """Keeps workers from taking grants for the account until its next probe.

    A probe is a single call that tests whether Twilio still refuses the account's calls. The next one comes after `wait`
    (capped at 15 minutes) or, if that is longer, after the time since the first refusal (capped at one minute). `after_probe`
    says whether the refused call was a probe. If it was not, a later probe that is already planned stays. Returns True if this
    is the account's first refusal.
    """
    rows = await database.fetch(_SLOW_DOWN, account_id, wait, after_probe)
    return any(row["is_first"] for row in rows)


async def allow_next_probe(database: StatementRunner, account_id: UUID) -> None:
    """Allows another probe of a refused account at once. Call this if the last probe was never sent to Twilio."""
    await database.fetch(_ALLOW_NEXT_PROBE, account_id)


async def resume_account(database: StatementRunner, account_id: UUID) -> None:
    """Ends the slowdown: workers dial the account's calls as before. Call this when Twilio no longer refuses them."""
    await database.fetch(_RESUME, account_id)
