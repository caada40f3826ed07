"""The errors of the service. Each class has a slug, an HTTP status, what is known about the call, and advice about retries.

CallgateError
├── RequestError      the request cannot be read, is invalid, is not allowed, or does not fit the state of the call
├── IdempotencyError  the Idempotency-Key belongs to another request, or to one that is in progress
├── UpstreamError     Twilio did not carry out the request (not certain for CallNotFoundAtTwilio and ActionUnknown)
└── ServiceError      the service itself failed; no call was started

The subclasses of RequestError are in app/request_errors.py.

If it is unknown whether a request to create a call has started one, the response is no 5xx. Under `/v1` it is 202 with the
record of the call. Under Twilio's own paths (/2010-04-01) it is 409. If the outcome of any other request at Twilio is unknown,
the response is ActionUnknown (409), because no record shows the outcome later.

A 5xx therefore means that the request started no call, and that repeating it cannot place a second one. It does not always mean
that nothing happened: with DatabaseUnavailable, a change in Postgres may have been committed, and a request to end a call may
have reached Twilio.
"""

from typing import ClassVar, Literal

from app.callgate_error import CallgateError, ExecutionName, FieldError, TwilioErrorResponse
from app.request_errors import *  # noqa: F403  # so that every error can be imported from here

__all__ = ["CallgateError", "ExecutionName", "FieldError", "TwilioErrorResponse"]


class CommandFailed(Exception):
    """A `callgate` command failed. The message gives the reason in one line, for the operator."""

    exit_code: ClassVar[int] = 1


class CommandUnfinished(CommandFailed):
    """A `callgate` command ended before its work was complete. Running the same command again continues it."""

    exit_code: ClassVar[int] = 3


class ResponseTruncated(Exception):
    """A response that has started cannot be completed. The server closes the connection to signal this."""


class IdempotencyError(CallgateError):
    pass


class CallPending(IdempotencyError):
    slug, status, title = "call-pending", 409, "The first request with this key is still in progress"
    execution: ClassVar[Literal["not_started", "unknown"]] = "unknown"
    default_detail = "The call with this Idempotency-Key is being placed. Repeat the request in a moment."


class IdempotencyKeyReused(IdempotencyError):
    slug, status, title = "idempotency-key-reused", 422, "The Idempotency-Key belongs to another request"
    # The client may have changed its request between two retries, and the first attempt may have placed the call.
    is_safe_to_repeat = False
    repeat_with_same_key = False
    default_detail = "This Idempotency-Key was used with a different request, whose record is `call_id`."


class UpstreamError(CallgateError):
    pass


class UpstreamRejected(UpstreamError):
    slug, status, title = "upstream-rejected", 422, "Twilio refused the call"
    repeat_with_same_key = False
    default_detail = "Twilio refused to place the call; `upstream` says why."


class UpstreamCredentialsRejected(UpstreamError):
    slug, status, title = (
        "upstream-credentials-rejected",
        502,
        "Twilio accepted none of the account's credentials",
    )
    default_detail = "Twilio refused every active credential of the account. An operator has to renew them."


class UpstreamThrottled(UpstreamError):
    slug, status, title = "upstream-throttled", 503, "Twilio is throttling the account"
    default_detail = "Twilio answered the last attempt with 429; no attempt was processed."


class UpstreamUnreachable(UpstreamError):
    slug, status, title = "upstream-unreachable", 503, "Twilio cannot be reached"
    default_detail = "The last attempt could not be sent to Twilio; no attempt was processed."


class ActionUnknown(UpstreamError):
    slug, status, title = "action-unknown", 409, "It is unknown whether Twilio carried out the request"
    # A redirect that is carried out twice may dial twice.
    is_safe_to_repeat = False
    default_detail = (
        "The request may have reached Twilio, and no reliable answer came back. Check the call before repeating it."
    )


class CallNotFoundAtTwilio(UpstreamError):
    slug, status, title = "none-found", 409, "No such call was found at Twilio"
    # Not safe to repeat: that no call exists is not certain. If Twilio started it after all, a new key places a second one.
    is_safe_to_repeat = False
    repeat_with_same_key = False
    default_detail = (
        "The outcome of this call was unknown, and searches of Twilio's call list did not find it. It was most likely not "
        "started. To place it, use a new Idempotency-Key."
    )


class ServiceError(CallgateError):
    pass


class InternalError(ServiceError):
    slug, status, title = "internal-error", 500, "Internal error"
    default_detail = "The request failed before a call was placed. The log has the cause under this request id."


class DatabaseUnavailable(ServiceError):
    slug, status, title = "database-unavailable", 503, "The database is unavailable"
    default_detail = "This request placed no call. An earlier request with the same Idempotency-Key may have placed one."
    # For logs and probes; see app/database/errors.py.
    reason: str = "unavailable"
    # Whether the transaction may have been committed despite the error.
    commit_in_doubt: bool = True
    # Whether new settings are stored, but may not yet apply to scheduled calls that already wait.
    settings_stored: bool = False

    @property
    def is_lock_timeout(self) -> bool:
        """Whether a statement has waited too long for a lock."""
        return self.reason == "locked"


class WorkloadKeysUnavailable(ServiceError):
    slug, status, title = "workload-keys-unavailable", 503, "The keys for service account tokens are unavailable"
    default_detail = "The key of this service account token is not known, and the issuer's key set cannot be read now."


class Overloaded(ServiceError):
    slug, status, title = "overloaded", 503, "Too many requests are in progress"
    default_detail = "Too many creations are in progress for this tenant or in this process."


class PaceExceeded(ServiceError):
    slug, status, title = "paced", 503, "The account's pace allows no call now"
    default_detail = "The Twilio account's calls per second, or its concurrent calls, have reached their limit."


class TooManyConnections(ServiceError):
    slug, status, title = "too-many-connections", 503, "Too many connections are open"
    default_detail = "All connections of this process are busy. Nothing was read from this one."


class ShuttingDown(ServiceError):
    slug, status, title = "shutting-down", 503, "The process is shutting down"
    default_detail = "This process completes the requests that it has begun and accepts no new creation."


def _leaf_classes(cls: type[CallgateError]) -> list[type[CallgateError]]:
    found = [leaf for child in cls.__subclasses__() for leaf in _leaf_classes(child)]
    return found or [cls]


def error_classes_by_slug() -> dict[str, type[CallgateError]]:
    """Returns the errors that can appear in API responses, by slug, for example "overloaded".

    These are the subclasses of CallgateError that have no subclasses themselves.
    """
    return {error.slug: error for error in _leaf_classes(CallgateError)}
