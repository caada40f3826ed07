"""SQL for the token bucket in a row of `pace`: how many calls the row allows now, and its `next_at` after they are dialled.

The bucket is GCRA, the generic cell rate algorithm (ITU-T I.371): one timestamp instead of a level and a time. Within any
span of s seconds at most `burst + s * calls_per_second` calls are dialled. Lock the row before the clock is read for `at`.
"""

_NO_LIMIT = 1_000_000


def allowed_calls_sql(at: str) -> str:
    """Returns SQL for the number of calls that the row `pace` allows at the time `at`, by its tokens and free dial slots."""
    return f"""greatest(0, least(
        coalesce(
            floor(pace.burst - extract(epoch FROM greatest(pace.next_at, {at}) - {at}) * pace.calls_per_second), {_NO_LIMIT}
        ),
        coalesce(pace.max_concurrent - pace.in_use, {_NO_LIMIT})
    ))::int"""


def wait_s_sql(at: str) -> str:
    """Returns SQL for the seconds from `at` until the row `pace` has a token; null if it has one or no rate is set."""
    return f"""nullif(greatest(0,
        extract(epoch FROM greatest(pace.next_at, {at}) - {at}) - (pace.burst - 1) / pace.calls_per_second
    ), 0)::float8"""


def next_at_sql(at: str, count: str) -> str:
    """Returns SQL for the row's `next_at` after `count` calls were dialled at the time `at`."""
    return f"""CASE WHEN pace.calls_per_second IS NULL THEN pace.next_at
        ELSE greatest(pace.next_at, {at}) + make_interval(secs => ({count} / pace.calls_per_second)::float8) END"""


def next_at_for_pause_sql(at: str) -> str:
    """Returns SQL for the row's `next_at` after a pause until the time `at`, before which it has no token."""
    return f"greatest(pace.next_at, {at} + make_interval(secs => ((pace.burst - 1) / pace.calls_per_second)::float8))"


def next_at_for_rate_sql(at: str, rate: str) -> str:
    """Returns SQL for the `next_at` of a row of `pace` when its `calls_per_second` changes to `rate` at the time `at`.

    If the row has to wait, a higher rate shortens the wait. In all other cases `next_at` stays. A null `rate` is no limit.
    """
    return f"""CASE WHEN pace.next_at > {at} AND {rate} > pace.calls_per_second
        THEN {at} + (pace.next_at - {at}) * (pace.calls_per_second / {rate})::float8 ELSE pace.next_at END"""
