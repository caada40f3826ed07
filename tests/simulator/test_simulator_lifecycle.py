from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from simulator.lifecycle import CallPlan, CallProgress, Status, plan_call, plan_ended_by_api, plan_with_time_limit, progress_at

CREATED = datetime(2026, 11, 23, tzinfo=UTC)
LONG_AFTER = CREATED + timedelta(days=1)


def at(seconds: float) -> datetime:
    return CREATED + timedelta(seconds=seconds)


def planned(to: str, *, timeout_s: int = 60, time_limit_s: int | None = None, speed: float = 1) -> CallPlan:
    return plan_call(
        to,
        timeout_s=timeout_s,
        time_limit_s=time_limit_s,
        now=CREATED,
        speed=speed,
        price_delay_s=10,
        random=Random(7),  # noqa: S311 - a repeatable draw
    )


ANSWERED = CallPlan(Status.COMPLETED, CREATED, at(1), at(4), at(65), 1.0, timedelta(seconds=10))
BUSY = CallPlan(Status.BUSY, CREATED, at(1), None, at(2), 1.0, timedelta(seconds=10))


@pytest.mark.parametrize(
    ("plan", "seconds", "expected"),
    [
        (ANSWERED, 0, CallProgress(Status.QUEUED, None, None, None, None, at(0))),
        (ANSWERED, 0.99, CallProgress(Status.QUEUED, None, None, None, None, at(0))),
        (ANSWERED, 1, CallProgress(Status.RINGING, at(1), None, 0, None, at(1))),
        (ANSWERED, 3.99, CallProgress(Status.RINGING, at(1), None, 0, None, at(1))),
        (ANSWERED, 4, CallProgress(Status.IN_PROGRESS, at(1), None, 0, None, at(4))),
        (ANSWERED, 64.99, CallProgress(Status.IN_PROGRESS, at(1), None, 0, None, at(4))),
        (ANSWERED, 65, CallProgress(Status.COMPLETED, at(1), at(65), 61, None, at(65))),
        (ANSWERED, 74.99, CallProgress(Status.COMPLETED, at(1), at(65), 61, None, at(65))),
        (ANSWERED, 75, CallProgress(Status.COMPLETED, at(1), at(65), 61, Decimal("-0.01500"), at(75))),
        (BUSY, 1, CallProgress(Status.RINGING, at(1), None, 0, None, at(1))),
        (BUSY, 2, CallProgress(Status.BUSY, at(1), at(2), 0, None, at(2))),
        (BUSY, 9999, CallProgress(Status.BUSY, at(1), at(2), 0, None, at(2))),
    ],
)
def test_the_state_of_a_call_at_a_time(plan: CallPlan, seconds: float, expected: CallProgress) -> None:
    assert progress_at(plan, at(seconds)) == expected


@pytest.mark.parametrize(
    ("to", "outcome"),
    [
        ("sip:kate@example.com", Status.COMPLETED),
        ("sip:busy@example.com", Status.BUSY),
        ("sip:busy:password@example.com;transport=tls?X-a=b", Status.BUSY),
        ("sip:no-answer@example.com", Status.NO_ANSWER),
        ("sip:noanswer@example.com", Status.NO_ANSWER),
        ("sip:failed@[2001:db8::1]:5061", Status.FAILED),
        ("sip:busybee@example.com", Status.COMPLETED),
        ("sip:example.com", Status.COMPLETED),
        ("client:busy", Status.COMPLETED),
        ("+14155551212", Status.COMPLETED),
    ],
)
def test_the_sip_user_decides_how_a_call_ends(to: str, outcome: Status) -> None:
    assert progress_at(planned(to), LONG_AFTER).status == outcome


def test_only_a_completed_call_gets_a_price() -> None:
    prices = {user: progress_at(planned(f"sip:{user}@x.com"), LONG_AFTER).price for user in ("busy", "failed", "ann")}
    assert prices == {"busy": None, "failed": None, "ann": Decimal("-0.00750")}


def test_a_call_to_forever_is_in_progress_until_it_is_ended() -> None:
    plan = planned("sip:forever@example.com")
    assert progress_at(plan, LONG_AFTER).status is Status.IN_PROGRESS
    assert progress_at(plan_ended_by_api(plan, LONG_AFTER), LONG_AFTER).status is Status.COMPLETED


def test_an_unanswered_call_rings_until_its_timeout() -> None:
    plan = planned("sip:no-answer@example.com", timeout_s=30)
    assert progress_at(plan, at(30.9)).status is Status.RINGING
    assert progress_at(plan, at(31)).status is Status.NO_ANSWER


def test_a_timeout_shorter_than_the_ringing_is_no_answer() -> None:
    assert planned("sip:kate@example.com", timeout_s=1).outcome is Status.NO_ANSWER


def test_a_failed_call_never_rings() -> None:
    plan = planned("sip:failed@example.com")
    assert [progress_at(plan, at(s)).status for s in (0.99, 1)] == [Status.QUEUED, Status.FAILED]


def test_a_time_limit_ends_the_call() -> None:
    assert progress_at(planned("sip:forever@x.com", time_limit_s=90), LONG_AFTER).duration_s == 90
    assert progress_at(planned("sip:ann@x.com", time_limit_s=14400), LONG_AFTER).duration_s != 14400


def test_a_time_limit_that_has_passed_ends_the_call_now() -> None:
    assert plan_with_time_limit(ANSWERED, 5, at(30)).ended_at == at(30)


@pytest.mark.parametrize(
    ("seconds", "status", "dialled"),
    [(0.5, Status.CANCELED, False), (2, Status.CANCELED, True), (10, Status.COMPLETED, True)],
)
def test_ending_a_call(seconds: float, status: Status, dialled: bool) -> None:
    then = progress_at(plan_ended_by_api(ANSWERED, at(seconds)), at(seconds))
    assert (then.status, then.end_time, then.start_time is not None) == (status, at(seconds), dialled)


def test_speed_changes_the_times_but_not_the_duration() -> None:
    slow, fast = planned("sip:ann@x.com"), planned("sip:ann@x.com", speed=100)
    assert slow.ended_at is not None
    assert fast.ended_at is not None
    assert fast.ended_at - CREATED == pytest.approx((slow.ended_at - CREATED) / 100, abs=timedelta(milliseconds=1))
    assert progress_at(fast, LONG_AFTER).duration_s == progress_at(slow, LONG_AFTER).duration_s
