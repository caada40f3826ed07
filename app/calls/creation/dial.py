"""Sends to Twilio the request that creates a call. Repeats the request only if Twilio has not processed it.

docs/adr/0003 says which requests may be repeated. Does not import app.database: `dial` takes credentials and parameters, and
returns an outcome.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from app.calls.upstream_problems import problem_for_creation
from app.clock import monotonic_seconds
from app.errors import CallgateError, ExecutionName, UpstreamUnreachable
from app.twilio.client import TwilioClient
from app.twilio.errors import (
    ErrorAnswer,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotSent,
    TwilioOutcomeUnknown,
    TwilioRejected,
    TwilioThrottled,
)
from app.twilio.schemas import CallResource, Credential, Form

# Twilio's advice for 429, also used after failed connects: 100 ms, doubled each time, 10 % jitter, five tries.
_MAX_TRIES = 5
_FIRST_DELAY_S = 0.1
_JITTER_FRACTION = 0.1
_NO_TIME_LEFT_DETAIL = "Too little of the request's time was left when it could have been sent to Twilio; nothing was sent."
_NEXT_CREDENTIAL_DETAIL = "Twilio refused a credential of the account, and the attempt with the next one could not begin."


@dataclass(frozen=True, slots=True)
class DialTimeBudget:
    """Time limits in seconds for the creation of one call.

    `total_s` is the limit for all requests and the waits between them. It includes the time in which the call's first record is
    committed. A request is repeated only if `attempt_s` is left of it. `connect_s` is the limit for connecting: a request that
    cannot be sent within this time is not sent.
    """

    total_s: float
    attempt_s: float
    connect_s: float

    @property
    def min_first_attempt_s(self) -> float:
        """The seconds that must be left of `total_s` for a first attempt: `attempt_s`, or half of `total_s` if that is less.

        Every further attempt needs the whole time `attempt_s`. The first may begin with less, because the call would otherwise
        end as `not_started`.
        """
        return min(self.attempt_s, self.total_s / 2)


@dataclass(frozen=True, slots=True)
class DialAttempt:
    """One request to Twilio, as the call's events show it. `result` is `started`, or the reason why the request failed.

    `credential` is the id of the credential. `status`, `code` and `twilio_request_id` are from Twilio's error answer.
    """

    result: str
    milliseconds: int
    credential: str
    status: int | None = None
    code: int | None = None
    twilio_request_id: str | None = None

    def event_data(self) -> dict[str, Any]:
        """Returns the attributes that are not None, by name, as they are stored in the call's event."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class StartedOutcome:
    """The outcome of a dial: Twilio has created the call."""

    execution: ClassVar[ExecutionName] = "started"
    resource: CallResource
    attempts: Sequence[DialAttempt]


@dataclass(frozen=True, slots=True)
class NotStartedOutcome:
    """The outcome of a dial: it is proven that no call was created. `problem` is the error for the client."""

    execution: ClassVar[ExecutionName] = "not_started"
    problem: CallgateError
    attempts: Sequence[DialAttempt]


@dataclass(frozen=True, slots=True)
class UnknownOutcome:
    """The outcome of a dial: a call may have been created. The request is never repeated."""

    execution: ClassVar[ExecutionName] = "unknown"
    reason: str
    attempts: Sequence[DialAttempt]


Outcome = StartedOutcome | NotStartedOutcome | UnknownOutcome


@dataclass(frozen=True, slots=True)
class RequeueValues:
    """The values for putting a scheduled call back among the waiting calls, if it is not dialled or Twilio refuses it for now.

    `dial_row` is the call's new row in `scheduled_dial`, the table of waiting calls. The call is dialled again after `retry_in`
    at the earliest. `is_probe` says whether the call is the only one of its account that is dialled now, because Twilio has
    refused earlier ones (app.scheduling.refused_accounts).
    """

    dial_row: Mapping[str, Any]
    retry_in: timedelta
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """The form for Twilio and the time limits of one dial (all attempts to place the call).

    `began` is when the time budget began. Nothing may be sent after `deadline`, the `ring_by` of a scheduled call. Both are
    values of `monotonic_seconds()`. `expects_callbacks` says whether Twilio is asked to send callbacks to Callgate.
    `requeue_values` is set only for a scheduled call, which waits again after a temporary refusal.
    """

    form: Form
    began: float
    expects_callbacks: bool = False
    deadline: float = math.inf
    requeue_values: RequeueValues | None = None


@dataclass
class _DialProgress:
    """The time limits of one dial, and its attempts so far.

    `began` is when the time budget began, and nothing may be sent after `deadline`: both are values of `monotonic_seconds()`.
    """

    budget: DialTimeBudget
    began: float
    deadline: float = math.inf
    attempts: list[DialAttempt] = field(default_factory=list)

    @property
    def remaining_s(self) -> float:
        """The seconds that are left of the time budget."""
        return self.budget.total_s - (monotonic_seconds() - self.began)

    def send_deadline(self) -> float:
        """Returns the latest time at which an attempt that begins now may send its request, by `monotonic_seconds()`.

        If the attempt gets that far only later, for example because the process was suspended, the request is not sent.
        """
        return min(monotonic_seconds() + self.budget.connect_s, self.began + self.budget.total_s, self.deadline)

    def retry_delay_s(self, earlier_tries: int, retry_after_s: float | None) -> float:
        """Returns the seconds to wait after a failed attempt: the backoff, or `retry_after_s` (Retry-After) if that is longer.

        `earlier_tries` is the number of attempts before this one that failed for a temporary reason. The backoff doubles with
        each of them, and varies at random by up to 10 %.
        """
        backoff: float = _FIRST_DELAY_S * 2**earlier_tries * random.uniform(1 - _JITTER_FRACTION, 1 + _JITTER_FRACTION)  # noqa: S311  # not a secret
        return max(backoff, retry_after_s or 0.0)

    async def pause_before_retry(self, delay: float, may_repeat: Callable[[], Awaitable[bool]]) -> bool:
        """Waits for `delay` seconds, then calls `may_repeat`. Returns whether another attempt may begin.

        Returns False if `may_repeat` does, or if too little time is left for an attempt. Does not wait if it is clear from the
        beginning that too little time would be left.
        """
        if self.remaining_s - delay < self.budget.attempt_s or monotonic_seconds() + delay >= self.deadline:
            return False
        await asyncio.sleep(delay)
        try:
            async with asyncio.timeout(self.remaining_s - self.budget.attempt_s):
                return await may_repeat() and self.remaining_s >= self.budget.attempt_s
        except TimeoutError:
            return False


async def dial(
    twilio: TwilioClient,
    credentials: Sequence[Credential],
    prepared: PreparedCall,
    *,
    budget: DialTimeBudget,
    may_repeat: Callable[[], Awaitable[bool]],
) -> Outcome:
    """Places one call at Twilio, and returns the outcome: the call was created, was not created, or this is unknown.

    Repeats a request only if it is certain that Twilio has not processed it, and only within `budget`. After a rejected
    credential, the next of `credentials` is tried. `may_repeat` is called before each repetition. It must return False unless
    it is certain that the call is still pending and that no client has asked to end it.
    """
    progress = _DialProgress(budget, prepared.began, prepared.deadline)
    if progress.remaining_s < budget.min_first_attempt_s or monotonic_seconds() >= prepared.deadline:
        return NotStartedOutcome(UpstreamUnreachable(_NO_TIME_LEFT_DETAIL, retry_after_s=1), progress.attempts)
    tries = 0
    waiting = list(credentials)
    while True:
        began = monotonic_seconds()
        credential = waiting[0]
        try:
            resource = await twilio.create_call(
                credential, prepared.form, deadline_s=progress.remaining_s, send_before=progress.send_deadline()
            )
        except TwilioError as error:
            progress.attempts.append(_make_dial_attempt(error.reason, began, credential, error.answer))
            match error:
                case TwilioOutcomeUnknown():
                    return UnknownOutcome(error.reason, progress.attempts)
                case TwilioRejected():
                    return NotStartedOutcome(problem_for_creation(error), progress.attempts)
                case TwilioCredentialRejected():
                    waiting.pop(0)
                    if not waiting:
                        return NotStartedOutcome(problem_for_creation(error), progress.attempts)
                    delay = 0.0
                case TwilioThrottled():
                    delay = progress.retry_delay_s(tries, error.answer.retry_after_s)
                    tries += 1
                case TwilioNotSent():
                    delay = progress.retry_delay_s(tries, None)
                    tries += 1
                case _:
                    raise
            if tries >= _MAX_TRIES or not await progress.pause_before_retry(delay, may_repeat):
                if isinstance(error, TwilioCredentialRejected):  # but Twilio may accept the next credential
                    return NotStartedOutcome(UpstreamUnreachable(_NEXT_CREDENTIAL_DETAIL, retry_after_s=1), progress.attempts)
                return NotStartedOutcome(problem_for_creation(error), progress.attempts)
        else:
            progress.attempts.append(_make_dial_attempt("started", began, credential, None))
            return StartedOutcome(resource, progress.attempts)


def _make_dial_attempt(result: str, began: float, credential: Credential, answer: ErrorAnswer | None) -> DialAttempt:
    return DialAttempt(
        result=result,
        milliseconds=round((monotonic_seconds() - began) * 1000),
        credential=credential.reference,
        status=answer.status if answer else None,
        code=answer.code if answer else None,
        twilio_request_id=answer.request_id if answer else None,
    )
