"""Stores why a call was not started, and rebuilds the error for a repeated request."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from app.errors import (
    CallgateError,
    DatabaseUnavailable,
    Upstream,
    UpstreamCredentialsRejected,
    UpstreamThrottled,
    UpstreamUnreachable,
    all_errors,
)
from app.twilio.refusals import ACCOUNT_AT_CAPACITY_CODES


def is_temporary(slug: str) -> bool:
    """Returns whether the error with this slug is temporary. The error has prevented the start of a call.

    After a temporary error, a request with the same idempotency key dials the call again.
    """
    return slug in {
        UpstreamUnreachable.slug,
        UpstreamThrottled.slug,
        UpstreamCredentialsRejected.slug,
        DatabaseUnavailable.slug,
    }


def is_retried_when_scheduled(error: CallgateError) -> bool:
    """Returns whether a scheduled call whose start failed with this error is tried again until its latest time, `ring_by`."""
    is_full = error.upstream is not None and error.upstream.code in ACCOUNT_AT_CAPACITY_CODES
    return is_temporary(error.slug) or is_full


def error_as_json(error: CallgateError) -> dict[str, Any]:
    """Returns the error as a JSON object, which is stored in the call's record. `restore_error` converts it back."""
    stored = {"slug": error.slug, "detail": error.detail, "after_s": error.after_s}
    return stored | ({"upstream": asdict(error.upstream)} if error.upstream else {})


def restore_error(stored: dict[str, Any], *, call_id: UUID) -> CallgateError:
    """Rebuilds an error from `stored`, the result of `error_as_json`."""
    upstream = stored.get("upstream")
    return all_errors()[stored["slug"]](
        stored["detail"],
        call_id=call_id,
        upstream=Upstream(**upstream) if upstream else None,
        after_s=stored.get("after_s"),
    )
