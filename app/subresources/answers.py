"""What an exchange with Twilio came to, for the caller and for the call's events."""

from typing import Any

from app.calls.models import Call
from app.errors import (
    ActionUnknown,
    CallgateError,
    SubresourceNotFound,
    SubresourceRejected,
    Upstream,
    UpstreamCredentialsRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
)
from app.twilio.errors import (
    Answer,
    TwilioAnswered,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotSent,
    TwilioOutcomeUnknown,
    TwilioThrottled,
)
from app.twilio.forwarding import Done
from app.twilio.schemas import SID


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


def refusal(error: TwilioError) -> CallgateError:
    match error:
        case TwilioThrottled(answer=answer):
            return UpstreamThrottled(upstream=_upstream(answer), after_s=max(1, round(answer.retry_after_s or 1)))
        case TwilioCredentialRejected(answer=answer):
            return UpstreamCredentialsRejected(upstream=_upstream(answer))
        case TwilioAnswered(answer=answer):
            refused = SubresourceNotFound if answer.status == 404 else SubresourceRejected
            return refused(upstream=_upstream(answer))
        case TwilioNotSent():
            return UpstreamUnreachable(after_s=5)
    raise error


def _upstream(answer: Answer) -> Upstream:
    return Upstream(answer.status, answer.code, answer.message, answer.more_info, answer.request_id)
