"""Translates a refusal by Twilio, or a request that never reached it, into the error for the client."""

from collections.abc import Mapping
from uuid import UUID

from app.errors import (
    CallgateError,
    Upstream,
    UpstreamCredentialsRejected,
    UpstreamRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
)
from app.twilio.errors import TwilioCredentialRejected, TwilioError, TwilioNotProcessed, TwilioThrottled

_ERRORS_BY_TWILIO_ERROR: Mapping[type[TwilioError], type[CallgateError]] = {
    TwilioThrottled: UpstreamThrottled,
    TwilioCredentialRejected: UpstreamCredentialsRejected,
    TwilioNotProcessed: UpstreamRejected,
}


def upstream_problem(
    error: TwilioError,
    overrides: Mapping[type[TwilioError], type[CallgateError]] | None = None,
    *,
    rejected_detail: str | None = None,
    call_id: UUID | None = None,
) -> CallgateError:
    """Returns the client's error for a TwilioNotSent or TwilioNotProcessed, with Twilio's message if there is one.

    `overrides` maps some Twilio errors to other error classes than usual; `rejected_detail` replaces the detail of
    UpstreamRejected.
    """
    if not isinstance(error, TwilioNotProcessed):
        return UpstreamUnreachable(call_id=call_id, after_s=5)
    known = {**_ERRORS_BY_TWILIO_ERROR, **(overrides or {})}
    class_ = next(known[kind] for kind in type(error).__mro__ if kind in known)
    answer = error.answer
    return class_(
        rejected_detail if class_ is UpstreamRejected else None,
        call_id=call_id,
        upstream=Upstream(answer.status, answer.code, answer.message, answer.more_info, answer.request_id),
        after_s=max(1, round(answer.retry_after_s or 1)) if class_ is UpstreamThrottled else None,
    )
