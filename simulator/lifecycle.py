"""Computes the state of a call at any time.

Each call gets a plan of its state changes when it is created. The state at a time depends only on the plan and the time, so no
task has to run for a call.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from math import ceil
from random import Random

from simulator.destination import sip_user

DIAL_DELAY_S = 1.0
RINGING_RANGE_S = (2, 6)
TALKING_RANGE_S = (5, 30)
RINGING_BEFORE_BUSY_S = 1.0
PRICE_PER_STARTED_MINUTE = Decimal("0.00750")


class Status(StrEnum):
    QUEUED = "queued"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    BUSY = "busy"
    FAILED = "failed"
    NO_ANSWER = "no-answer"
    CANCELED = "canceled"


OUTCOME_BY_SIP_USER = {
    "busy": Status.BUSY,
    "failed": Status.FAILED,
    "no-answer": Status.NO_ANSWER,
    "noanswer": Status.NO_ANSWER,
}
ENDLESS_SIP_USER = "forever"


@dataclass(frozen=True, slots=True)
class CallPlan:
    """The times at which a call is dialled, answered and ended, and its final status (`outcome`).

    A time of None means that this never happens to the call. All times are those of the simulator's clock.
    """

    outcome: Status
    created_at: datetime
    dialled_at: datetime | None
    answered_at: datetime | None
    ended_at: datetime | None
    speed: float
    price_delay: timedelta | None
    """The time from the end of the call to its price. None means that the call never gets a price."""
    queue_time: timedelta = timedelta()
    """How long the call waits after its creation in its account's queue, because the account limits the calls per second."""

    @property
    def leaves_queue_at(self) -> datetime:
        return self.created_at + self.queue_time

    def has_ended(self, now: datetime) -> bool:
        return self.ended_at is not None and self.ended_at <= now

    def time_after(self, moment: datetime, call_seconds: float) -> datetime:
        return moment + timedelta(seconds=call_seconds / self.speed)


@dataclass(frozen=True, slots=True)
class CallProgress:
    """The state of a call at one time: its status, and the times, duration and price that are known by then."""

    status: Status
    start_time: datetime | None
    end_time: datetime | None
    duration_s: int | None
    price: Decimal | None
    updated_at: datetime

    @property
    def has_ended(self) -> bool:
        return self.end_time is not None


def plan_call(
    to: str,
    *,
    timeout_s: int,
    time_limit_s: int | None,
    now: datetime,
    speed: float,
    price_delay_s: float,
    random: Random,
    queue_time: timedelta = timedelta(),
    talking_s: tuple[int, int] = TALKING_RANGE_S,
) -> CallPlan:
    """Returns the plan of a new call: when it is dialled, answered and ended.

    The user part of a SIP URI may decide how the call ends: `busy`, `failed` or `no-answer` is its final status, and a call to
    `forever` does not end by itself. Every other call is answered, unless it would ring for `timeout_s` seconds or longer: then
    its final status is `no-answer`.
    """
    ringing_s, talks_for_s = random.randint(*RINGING_RANGE_S), random.randint(*talking_s)
    user = sip_user(to) or ""
    outcome = OUTCOME_BY_SIP_USER.get(user, Status.COMPLETED)
    price_delay = timedelta(seconds=price_delay_s / speed)
    plan = CallPlan(outcome, now, None, None, None, speed, price_delay, queue_time)
    dialled_at = plan.time_after(plan.leaves_queue_at, DIAL_DELAY_S)
    plan = replace(plan, dialled_at=dialled_at)
    if outcome is Status.FAILED:
        return replace(plan, ended_at=dialled_at)
    if outcome is Status.BUSY:
        return replace(plan, ended_at=plan.time_after(dialled_at, RINGING_BEFORE_BUSY_S))
    if outcome is Status.NO_ANSWER or ringing_s >= timeout_s:
        return replace(plan, outcome=Status.NO_ANSWER, ended_at=plan.time_after(dialled_at, timeout_s))
    answered_at = plan.time_after(dialled_at, ringing_s)
    ended_at = None if user == ENDLESS_SIP_USER else plan.time_after(answered_at, talks_for_s)
    plan = replace(plan, answered_at=answered_at, ended_at=ended_at)
    return plan_with_time_limit(plan, time_limit_s, now) if time_limit_s is not None else plan


def plan_with_time_limit(plan: CallPlan, time_limit_s: int, now: datetime) -> CallPlan:
    """Returns the plan with at most `time_limit_s` seconds from the answer to the end.

    If this time has passed already, the call ends now. A plan without an answer does not change.
    """
    if plan.answered_at is None:
        return plan
    limit = max(plan.time_after(plan.answered_at, time_limit_s), now)
    return replace(plan, ended_at=limit if plan.ended_at is None else min(plan.ended_at, limit))


def plan_ended_by_api(plan: CallPlan, now: datetime) -> CallPlan:
    """Returns the plan of a call that an API request ends now. The call must not have ended yet.

    A call that was not answered yet ends as canceled.
    """
    if plan.answered_at is not None and plan.answered_at <= now:
        return replace(plan, ended_at=now)
    dialled_at = plan.dialled_at if plan.dialled_at is not None and plan.dialled_at <= now else None
    return replace(plan, outcome=Status.CANCELED, dialled_at=dialled_at, answered_at=None, ended_at=now)


def plan_moved_by(plan: CallPlan, by: timedelta) -> CallPlan:
    """Returns the plan of a queued call, moved by `by`: positive for later, negative for earlier.

    The call must not have left the queue yet.
    """
    return replace(
        plan,
        dialled_at=None if plan.dialled_at is None else plan.dialled_at + by,
        answered_at=None if plan.answered_at is None else plan.answered_at + by,
        ended_at=None if plan.ended_at is None else plan.ended_at + by,
        queue_time=plan.queue_time + by,
    )


def progress_at(plan: CallPlan, now: datetime) -> CallProgress:
    """Returns the state of a call at the time `now`.

    Only a completed call gets a price. Calls that were not answered cost nothing and keep `price: null`.
    """
    ended = plan.has_ended(now)
    dialled = plan.dialled_at is not None and plan.dialled_at <= now
    answered = plan.answered_at is not None and plan.answered_at <= now
    priced_at = None
    if ended and plan.outcome is Status.COMPLETED and plan.ended_at is not None and plan.price_delay is not None:
        priced_at = plan.ended_at + plan.price_delay
    priced = priced_at is not None and priced_at <= now
    if ended:
        status = plan.outcome
    elif answered:
        status = Status.IN_PROGRESS
    else:
        status = Status.RINGING if dialled else Status.QUEUED
    duration_s = None
    if dialled:
        duration_s = _talking_seconds(plan) if ended else 0
    moments = (plan.created_at, plan.dialled_at, plan.answered_at, plan.ended_at, priced_at)
    return CallProgress(
        status=status,
        start_time=plan.dialled_at if dialled else None,
        end_time=plan.ended_at if ended else None,
        duration_s=duration_s,
        price=_price(_talking_seconds(plan)) if priced else None,
        updated_at=max(moment for moment in moments if moment is not None and moment <= now),
    )


def time_of_next_change(plan: CallPlan, now: datetime) -> datetime | None:
    """Returns when the state of a call changes next after `now`; None if it never changes again."""
    priced_at = None
    if plan.outcome is Status.COMPLETED and plan.ended_at is not None and plan.price_delay is not None:
        priced_at = plan.ended_at + plan.price_delay
    moments = (plan.dialled_at, plan.answered_at, plan.ended_at, priced_at)
    return min((moment for moment in moments if moment is not None and moment > now), default=None)


def _talking_seconds(plan: CallPlan) -> int:
    if plan.answered_at is None or plan.ended_at is None:
        return 0
    return round((plan.ended_at - plan.answered_at).total_seconds() * plan.speed)


def _price(duration_s: int) -> Decimal:
    return -PRICE_PER_STARTED_MINUTE * max(1, ceil(duration_s / 60))
