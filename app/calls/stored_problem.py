"""Converts the error that prevented the start of a call to JSON for the call's record, and back for a repeated request."""

from collections.abc import Mapping
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
    """Returns whether an error that prevented the start of a call is temporary.

    `slug` names the error, for example `upstream-throttled`. After a temporary error, a request with the same idempotency key
    dials the call again. This is safe, because nothing was sent to Twilio, or Twilio has processed nothing.
    """
    return slug in {
        UpstreamUnreachable.slug,
        UpstreamThrottled.slug,
        UpstreamCredentialsRejected.slug,
        DatabaseUnavailable.slug,
        NoUsableCredentials.slug,
        InternalError.slug,
    }


def allows_scheduled_retry(error: CallgateError) -> bool:
    """Returns whether Callgate tries again to dial a scheduled call after this error prevented its start.

    It tries until the call's `ring_by`.
    """
    is_full = error.upstream is not None and error.upstream.code in ACCOUNT_AT_CAPACITY_CODES
    return is_temporary_problem(error.slug) or is_full


def error_as_json(error: CallgateError) -> dict[str, Any]:
    """Returns the error as a JSON object, which is stored in the call's record. `restore_error` converts it back."""
    stored: dict[str, Any] = {"slug": error.slug, "detail": error.detail, "after_s": error.retry_after_s}
    if error.upstream:
        stored["upstream"] = asdict(error.upstream)
    if error.field_errors:
        stored["errors"] = [asdict(each) for each in error.field_errors]
    return stored


def not_started_reason(settled_by: str | None, problem: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns why a call counted as not started: the members `settled_by` and `problem` (the problem's slug, or None).

    If the call becomes started or pending after all, the event (`call.corrected` or `call.pending`) has this dict as `was`.
    """
    return {"settled_by": settled_by, "problem": (problem or {}).get("slug")}


def restore_error(stored: dict[str, Any], *, call_id: UUID) -> CallgateError:
    """Rebuilds an error from `stored`, the result of `error_as_json`.

    The error's `repeat_with_same_key` says whether a request with the same idempotency key dials the call again. This is so if
    the error is temporary. Otherwise, each such request gets the error again.
    """
    upstream = stored.get("upstream")
    error = error_classes_by_slug()[stored["slug"]](
        stored["detail"],
        call_id=call_id,
        field_errors=tuple(FieldError(**each) for each in stored.get("errors", ())),
        upstream=TwilioErrorResponse(**upstream) if upstream else None,
        retry_after_s=stored.get("after_s"),
    )
    error.repeat_with_same_key = is_temporary_problem(error.slug)
    return error
