"""One creation sent to Twilio: the loop that may repeat what was never processed, and nothing else.

What may be repeated and what never: docs/adr/0003. Knows no database: it is given credentials and parameters, and says what
happened.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from app.calls.refusals import upstream_problem
from app.errors import CallgateError, Execution
from app.twilio.client import TwilioClient
from app.twilio.errors import (
    Answer,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotSent,
    TwilioOutcomeUnknown,
    TwilioRejected,
    TwilioThrottled,
)
from app.twilio.schemas import AccountAccess, CallResource

# Twilio's advice for 429, taken for failed connects too: 100 ms doubled each time with 10 % jitter, five tries.
_MAX_TRIES = 5
_FIRST_DELAY_S = 0.1
_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds. `attempt` is the longest that one attempt can take; `total` bounds all of them together."""

    total: float
    attempt: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try, as it is shown in the call's events."""

    result: str
    milliseconds: int
    credential: str
    status: int | None = None
    code: int | None = None
    twilio_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Started:
    execution: ClassVar[Execution] = "started"
    resource: CallResource
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Proven: Twilio created no call."""

    execution: ClassVar[Execution] = "not_started"
    problem: CallgateError
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A call may have been created. Never repeated."""

    execution: ClassVar[Execution] = "unknown"
    reason: str
    attempts: Sequence[Attempt]


Outcome = Started | NotStarted | Unknown


@dataclass
class _Dial:
    budget: Budget
    attempts: list[Attempt] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def remaining(self) -> float:
        return self.budget.total - (time.monotonic() - self.began)

    def delay(self, tries: int, asked_for: float | None) -> float:
        backoff: float = _FIRST_DELAY_S * 2**tries * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret
        return max(backoff, asked_for or 0.0)


async def dial(
    twilio: TwilioClient,
    accesses: Sequence[AccountAccess],
    parameters: Mapping[str, Any],
    *,
    budget: Budget,
) -> Outcome:
    """Place one call. Repeats only what was proven not to be processed, and begins no attempt that the budget cannot hold."""
    course = _Dial(budget)
    tries = 0
    waiting = list(accesses)
    while True:
        began = time.monotonic()
        access = waiting[0]
        try:
            resource = await twilio.create_call(access, parameters, deadline_s=course.remaining)
        except TwilioError as error:
            course.attempts.append(_attempt(error.reason, began, access, error.answer))
            match error:
                case TwilioOutcomeUnknown():
                    return Unknown(error.reason, course.attempts)
                case TwilioRejected():
                    return NotStarted(upstream_problem(error), course.attempts)
                case TwilioCredentialRejected():
                    waiting.pop(0)
                    if not waiting:
                        return NotStarted(upstream_problem(error), course.attempts)
                    delay = 0.0
                case TwilioThrottled():
                    delay = course.delay(tries, error.answer.retry_after_s)
                    tries += 1
                case TwilioNotSent():
                    delay = course.delay(tries, None)
                    tries += 1
                case _:
                    raise
            if tries >= _MAX_TRIES or course.remaining - delay < budget.attempt:
                return NotStarted(upstream_problem(error), course.attempts)
            await asyncio.sleep(delay)
        else:
            course.attempts.append(_attempt("started", began, access, None))
            return Started(resource, course.attempts)


def _attempt(result: str, began: float, access: AccountAccess, answer: Answer | None) -> Attempt:
    return Attempt(
        result=result,
        milliseconds=round((time.monotonic() - began) * 1000),
        credential=access.reference,
        status=answer.status if answer else None,
        code=answer.code if answer else None,
        twilio_request_id=answer.request_id if answer else None,
    )
