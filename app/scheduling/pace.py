"""SQL for the token bucket in a row of the table `pace` (the dialling limits of an account or a queue).

The functions compute how many calls the row allows now, and its `next_at` after calls are dialled. The bucket follows GCRA, the
generic cell rate algorithm (ITU-T I.371), which stores one timestamp (`next_at`) instead of a fill level and a time. Within any
span of s seconds at most `burst + s * calls_per_second` calls are dialled.

After a backward step of Postgres's clock, `next_at` may be further ahead than calls and pauses can move it. Then one call is
allowed, and this call sets `next_at` anew. A mere cap on `next_at` would advance with the clock and never allow a call.

All arguments are SQL expressions. A statement must lock the row before it reads the clock for `at`.
"""

MAX_PAUSE_S = 60
"""The longest pause of an account's calls: `next_at_for_pause_sql` must not get a later time."""
_UNLIMITED_CALL_COUNT = 1_000_000


def _plausible_next_at_sql(at: str) -> str:
    """Returns SQL for `next_at` (the token bucket) of the row `pace`, corrected after a backward step of the clock.

    If `next_at` is further ahead of `at` than calls and pauses can move it, the SQL gives a time that allows one call.
    """
    # Without `trunc`, the interval could be rounded up to the next microsecond, and no call would be allowed.
    return f"""CASE
        WHEN pace.next_at > {at} + make_interval(secs => (pace.burst / pace.calls_per_second)::float8 + {MAX_PAUSE_S})
        THEN {at} + make_interval(secs => trunc((pace.burst - 1) / pace.calls_per_second, 6)::float8)
        ELSE pace.next_at END"""


def allowed_call_count_sql(at: str) -> str:
    """Returns SQL for the number of calls that may be dialled at the time `at` within the limits of the row `pace`.

    The row has the limits of an account or a queue: `calls_per_second` with `burst`, and `max_concurrent`.
    """
    return f"""greatest(0, least(
        coalesce(
            floor(pace.burst - extract(epoch FROM greatest({_plausible_next_at_sql(at)}, {at}) - {at}) * pace.calls_per_second),
            {_UNLIMITED_CALL_COUNT}
        ),
        coalesce(pace.max_concurrent - pace.in_use, {_UNLIMITED_CALL_COUNT})
    ))::int"""


def seconds_until_allowed_sql(at: str) -> str:
    """Returns SQL for the seconds from `at` until `calls_per_second` of the row `pace` allows a call.

    The SQL gives null if a call is allowed at `at`, or if `calls_per_second` is not set.
    """
    return f"""nullif(greatest(0,
        extract(epoch FROM greatest({_plausible_next_at_sql(at)}, {at}) - {at}) - (pace.burst - 1) / pace.calls_per_second
    ), 0)::float8"""


def next_at_after_calls_sql(at: str, count: str) -> str:
    """Returns SQL for the new `next_at` (the token bucket) of the row `pace` after `count` calls were dialled at `at`."""
    return f"""CASE WHEN pace.calls_per_second IS NULL THEN pace.next_at
        ELSE greatest({_plausible_next_at_sql(at)}, {at}) + make_interval(secs => ({count} / pace.calls_per_second)::float8)
        END"""


def next_at_for_pause_sql(pause_until: str) -> str:
    """Returns SQL for a `next_at` (the token bucket) of the row `pace` that allows no call before `pause_until`."""
    pause_end = f"{pause_until} + make_interval(secs => ((pace.burst - 1) / pace.calls_per_second)::float8)"
    return f"greatest({_plausible_next_at_sql(pause_until)}, {pause_end})"


def next_at_after_rate_change_sql(at: str, rate: str, burst: str) -> str:
    """Returns SQL for the `next_at` of a row of `pace` when its limits change to `rate` and `burst` at the time `at`.

    `rate` is the new `calls_per_second`. The number of tokens in use stays the same, but is capped at `burst`. So a lower rate
    frees no tokens, and a higher rate shortens the current wait. A pause (`next_at_for_pause_sql`) is not shortened. If the
    row had no rate, or gets none, `next_at` stays.
    """
    next_at = _plausible_next_at_sql(at)
    pause_end = f"{next_at} - make_interval(secs => ((pace.burst - 1) / pace.calls_per_second)::float8)"
    return f"""CASE WHEN pace.next_at > {at} AND pace.calls_per_second / {rate} IS NOT NULL THEN greatest(
        {at} + least(
            ({next_at} - {at}) * (pace.calls_per_second / {rate})::float8, make_interval(secs => ({burst} / {rate})::float8)
        ),
        CASE WHEN {next_at} > {at} + make_interval(secs => (pace.burst / pace.calls_per_second)::float8)
            THEN {pause_end} + make_interval(secs => (({burst} - 1) / {rate})::float8) END
    ) ELSE pace.next_at END"""
