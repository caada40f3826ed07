"""SQL, without SQLAlchemy, that slows an account down while Twilio refuses its scheduled calls for the moment.

The account's row of `pace` has the time of the next probe. A probe is a call that is dialled alone, to find out whether Twilio
still refuses calls of the account. A worker takes a grant, the right to dial one call, before it dials.
"""

from datetime import timedelta
from uuid import UUID

from app.database.pool import StatementRunner

# The longest time between two probes, unless Twilio asks for more. Also the time after which another probe may be dialled if no
# result of the last one was written, for example because its worker has ended.
_MAX_PROBE_INTERVAL_S = 60
_MAX_WAIT_SET_BY_TWILIO_S = 15 * 60
# A refusal this long after the last probe was due is a new one: meanwhile no call of the account was due.
_FORGET_REFUSAL_AFTER_S = 5 * 60
# The wait is the time since the first refusal, so it about doubles with each probe.
_SLOW_DOWN = f"""
    UPDATE pace SET refused_since = coalesce(refused_since, clock.at),
        probe_at = greatest(
            CASE WHEN NOT $3 THEN probe_at END,
            clock.at + greatest(
                least($2::interval, make_interval(secs => {_MAX_WAIT_SET_BY_TWILIO_S})),
                least(clock.at - coalesce(refused_since, clock.at), make_interval(secs => {_MAX_PROBE_INTERVAL_S}))
            )
        )
    FROM (SELECT clock_timestamp() AS at) AS clock WHERE subject_id = $1 RETURNING refused_since = clock.at AS is_first
"""  # noqa: S608  # a constant
_ALLOW_NEXT_PROBE = "UPDATE pace SET probe_at = clock_timestamp() WHERE subject_id = $1 AND probe_at IS NOT NULL"
_RESUME = "UPDATE pace SET refused_since = NULL, probe_at = NULL WHERE subject_id = $1"


def _probe_waits_sql(at: str) -> str:
    """Returns SQL for whether the account's next probe, planned for `probe_at`, must still wait at the time `at`.

    A probe is a single call that tests whether Twilio still refuses the account's calls. It does not wait if `probe_at` is more
    than 15 minutes ahead, because then Postgres's clock has stepped back.
    """
    return f"(pace.probe_at > {at} AND pace.probe_at <= {at} + make_interval(secs => {_MAX_WAIT_SET_BY_TWILIO_S}))"


def allowed_probe_count_sql(at: str) -> str:
    """Returns SQL for how many calls of a refused account may be dialled at the time `at`: 1 if a probe is due, otherwise 0.

    A probe is a single call that tests whether Twilio still refuses the account's calls. The SQL gives null if Twilio does not
    refuse them.
    """
    return f"CASE WHEN {_probe_waits_sql(at)} THEN 0 WHEN pace.probe_at IS NOT NULL THEN 1 END"


def seconds_until_probe_sql(at: str) -> str:
    """Returns SQL for the seconds from `at` until the next probe of an account.

    A probe is a single call that tests whether Twilio still refuses the account's calls. The SQL gives null if the probe is
    due, or if Twilio does not refuse the account's calls.
    """
    return f"CASE WHEN {_probe_waits_sql(at)} THEN extract(epoch FROM pace.probe_at - {at})::float8 END"


def probe_at_after_grant_sql(at: str) -> str:
    """Returns SQL for the new `probe_at` of the row `pace` after a worker has taken the right to dial a call at `at`.

    `probe_at` is the time of the next probe, a single call that tests whether Twilio still refuses the account's calls. The new
    time is a minute after `at`, in case the result of the call is never written. The SQL gives null if Twilio does not refuse
    the calls.
    """
    return f"CASE WHEN pace.probe_at IS NOT NULL THEN {at} + make_interval(secs => {_MAX_PROBE_INTERVAL_S}) END"


def refused_since_after_grant_sql(at: str) -> str:
    """Returns SQL for the new `refused_since` of the row `pace` after a worker has taken the right to dial a call at `at`.

    `refused_since` is the time since which Twilio refuses the account's calls. The SQL gives null if the call is a probe (a
    test whether Twilio still refuses) that was due at least five minutes ago: a refusal after such a break counts as the first
    one. Otherwise the value stays the same.
    """
    return f"CASE WHEN pace.probe_at > {at} - make_interval(secs => {_FORGET_REFUSAL_AFTER_S}) THEN pace.refused_since END"


async def slow_account_down(database: StatementRunner, account_id: UUID, *, wait: timedelta, was_probe: bool) -> bool:
    """Keeps workers from dialling the account's scheduled calls until its next probe.

    A probe is a single call that tests whether Twilio still refuses the account's calls. Call this function after a temporary
    refusal, or after a probe without an answer. The time until the next probe is `wait` (at most 15 minutes) or the time since
    the first refusal (at most one minute), whichever is longer. `was_probe` says whether the last call was itself a probe. If
    it was not, a probe that is already planned for a later time is not moved. Returns True if this refusal is the first one.
    """
    rows = await database.fetch(_SLOW_DOWN, account_id, wait, was_probe)
    return any(row["is_first"] for row in rows)


async def allow_next_probe(database: StatementRunner, account_id: UUID) -> None:
    """Allows the next probe of a refused account at once: a single call that tests whether Twilio still refuses its calls.

    Call this if the last probe was never sent to Twilio.
    """
    await database.fetch(_ALLOW_NEXT_PROBE, account_id)


async def end_account_slowdown(database: StatementRunner, account_id: UUID) -> None:
    """Ends the slowdown: workers dial the account's calls as before. Call this when Twilio no longer refuses them."""
    await database.fetch(_RESUME, account_id)
