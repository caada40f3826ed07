"""What an exchange with Twilio came to, for the caller and for the call's events."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from app.calls.models import Call
from app.calls.refusals import upstream_problem
from app.errors import (
    ActionUnknown,
    CallgateError,
    SubresourceNotFound,
    UpstreamUnreachable,
    WrongCallState,
)
from app.twilio.errors import TwilioError, TwilioNotFound, TwilioOutcomeUnknown, TwilioWrongState
from app.twilio.forwarding import UpstreamResponse
from app.twilio.schemas import SID

_PROBLEMS: Mapping[type[TwilioError], type[CallgateError]] = {
    TwilioWrongState: WrongCallState,
    TwilioNotFound: SubresourceNotFound,
}


def unanswered() -> UpstreamUnreachable:
    return UpstreamUnreachable("Twilio gave no usable answer to this question, which changed nothing.", after_s=5)


def indeterminate_error(call: Call, *, repeatable: bool) -> ActionUnknown:
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


def sid_of(done: UpstreamResponse) -> dict[str, Any]:
    sid = (done.document or {}).get("sid")
    return {"sid": sid} if isinstance(sid, str) and SID.fullmatch(sid) else {}


def refusal(call_id: UUID | None, error: TwilioError) -> CallgateError:
    """Proven: nothing was changed."""
    return upstream_problem(error, _PROBLEMS, rejected="Twilio refused it; `upstream` says why.", call_id=call_id)
