"""Converts Twilio's refusal of a request, or the failure to send the request to Twilio, into the error for the client."""

from collections.abc import Mapping
from uuid import UUID

from app.errors import (
    CallgateError,
    TwilioErrorResponse,
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


def problem_for_creation(error: TwilioError) -> CallgateError:
    """Returns the error for the client if Twilio has not processed a creation. This error has Twilio's message, if any.

    `error` must be a TwilioNotSent or a TwilioNotProcessed.
    """
    return _upstream_problem(error, _ERRORS_BY_TWILIO_ERROR, rejected_detail=None, call_id=None)


def problem_for_change(
    error: TwilioError, special_errors: Mapping[type[TwilioError], type[CallgateError]], *, call_id: UUID | None
) -> CallgateError:
    """Returns the error for the client if Twilio has not made a requested change. This error has Twilio's message, if any.

    `error` must be a TwilioNotSent or a TwilioNotProcessed. `special_errors` maps classes of Twilio errors to classes of errors
    for the client. Other Twilio errors become the same errors as after a creation.
    """
    classes = {**_ERRORS_BY_TWILIO_ERROR, **special_errors}
    return _upstream_problem(error, classes, rejected_detail="Twilio refused the change; `upstream` says why.", call_id=call_id)


def _upstream_problem(
    error: TwilioError,
    classes: Mapping[type[TwilioError], type[CallgateError]],
    *,
    rejected_detail: str | None,
    call_id: UUID | None,
) -> CallgateError:
    """Returns the error for the client after a TwilioNotSent or TwilioNotProcessed. This error has Twilio's message, if any.

    `classes` maps classes of Twilio errors to classes of errors for the client. `rejected_detail` is the detail of an
    UpstreamRejected. If it is None, the default detail is used.
    """
    if not isinstance(error, TwilioNotProcessed):
        return UpstreamUnreachable(call_id=call_id, retry_after_s=5)
    class_ = next(classes[kind] for kind in type(error).__mro__ if kind in classes)
    answer = error.answer
    return class_(
        rejected_detail if class_ is UpstreamRejected else None,
        call_id=call_id,
        upstream=TwilioErrorResponse(answer.status, answer.code, answer.message, answer.more_info, answer.request_id),
        retry_after_s=max(1, round(answer.retry_after_s or 1)) if class_ is UpstreamThrottled else None,
    )
