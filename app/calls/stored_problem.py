"""Stores why a call was not started, and rebuilds the error for a repeated request."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from app.errors import (
    CallgateError,
    DatabaseUnavailable,
    FieldError,
    InternalError,
    NoUsableCredentials,
    TwilioErrorResponse,
    UpstreamCredentialsRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
    error_classes_by_slug,
)
from app.twilio.refusals import ACCOUNT_AT_CAPACITY_CODES


def is_temporary_problem(slug: str) -> bool:
    """Returns whether the error with this slug is temporary. The error has prevented the start of a call.

    After a temporary error, a request with the same idempotency key dials the call again. Nothing was sent to Twilio, or Twilio
    has processed nothing.
    """
    return slug in {
        UpstreamUnreachable.slug,
        UpstreamThrottled.slug,
        UpstreamCredentialsRejected.slug,
        DatabaseUnavailable.slug,
        NoUsableCredentials.slug,
        InternalError.slug,
    }


def is_retried_when_scheduled(error: CallgateError) -> bool:
    """Returns whether a scheduled call whose start failed with this error is tried again until its latest time, `ring_by`."""
    is_full = error.upstream is not None and error.upstream.code in ACCOUNT_AT_CAPACITY_CODES
    return is_temporary_problem(error.slug) or is_full


def error_as_json(error: CallgateError) -> dict[str, Any]:
    """Returns the error as a JSON object, which is stored in the call's record. `restore_error` converts it back."""
    stored: dict[str, Any] = {"slug": error.slug, "detail": error.detail, "after_s": error.after_s}
    if error.upstream:
        stored["upstream"] = asdict(error.upstream)
    if error.field_errors:
        stored["errors"] = [asdict(each) for each in error.field_errors]
    return stored


def restore_error(stored: dict[str, Any], *, call_id: UUID) -> CallgateError:
    """Rebuilds an error from `stored`, the result of `error_as_json`.

    After a lasting error, the key is used up: a request with the same key gets this error again.
    """
    upstream = stored.get("upstream")
    error = error_classes_by_slug()[stored["slug"]](
        stored["detail"],
        call_id=call_id,
        field_errors=tuple(FieldError(**each) for each in stored.get("errors", ())),
        upstream=TwilioErrorResponse(**upstream) if upstream else None,
        after_s=stored.get("after_s"),
    )
    error.repeat_with_same_key = is_temporary_problem(error.slug)
    return error
