"""What an exchange with Twilio came to, for the caller and for the call's events."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from app.calls.creation.dial import problem_of
from app.calls.models import Call
from app.errors import (
    ActionUnknown,
    CallgateError,
    SubresourceNotFound,
    UpstreamCredentialsRejected,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
    WrongCallState,
)
from app.twilio.errors import TwilioCredentialRejected, TwilioError, TwilioOutcomeUnknown, TwilioThrottled
from app.twilio.forwarding import Done
from app.twilio.schemas import SID, AccountAccess

_INVALID_CALL_STATE = 21220
_NOT_FOUND = 404


def unanswered() -> UpstreamUnreachable:
    return UpstreamUnreachable("Twilio gave no usable answer to this question, which changed nothing.", after_s=5)


def in_doubt(call: Call, *, repeatable: bool) -> ActionUnknown:
    detail = "Repeat it under the same Idempotency-Key: Twilio does it once." if repeatable else None
    error = ActionUnknown(detail, call_id=call.id)
    error.safe = repeatable
    return error


def outcome_of(error: TwilioError) -> dict[str, Any]:
    """For the call's events: no text of Twilio's, which may repeat what was asked for."""
    unknown = isinstance(error, TwilioOutcomeUnknown)
    told = {"result": "unknown" if unknown else "not_done", "reason": error.reason}
    answer = error.answer
    if answer is None:
        return told
    answered = {"status": answer.status, "code": answer.code, "twilio_request_id": answer.request_id}
    return told | {name: value for name, value in answered.items() if value is not None}


def sid_of(done: Done) -> dict[str, Any]:
    sid = (done.document or {}).get("sid")
    return {"sid": sid} if isinstance(sid, str) and SID.fullmatch(sid) else {}


def refusal(call_id: UUID | None, error: TwilioError, accesses: Sequence[AccountAccess]) -> CallgateError:
    """Proven: nothing was changed."""
    if error.answer is None:
        return UpstreamUnreachable(call_id=call_id, after_s=5)
    class_: type[CallgateError] = UpstreamRejected
    if isinstance(error, TwilioCredentialRejected):
        class_ = UpstreamCredentialsRejected
    elif isinstance(error, TwilioThrottled):
        class_ = UpstreamThrottled
    elif error.answer.code == _INVALID_CALL_STATE:
        class_ = WrongCallState
    elif error.answer.status == _NOT_FOUND:
        class_ = SubresourceNotFound
    passwords = [access.password.get_secret_value() for access in accesses]
    detail = "Twilio refused it; `upstream` says why." if class_ is UpstreamRejected else None
    return problem_of(class_, error.answer, passwords, detail=detail, call_id=call_id)
