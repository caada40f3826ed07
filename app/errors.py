"""What can go wrong. Slug, HTTP status, execution and retry advice live on the class.

CallgateError
├── RequestError      the request cannot be read, or asks for what may not be
├── IdempotencyError  the key names another dial
├── UpstreamError     Twilio did not place the call, and that is proven (or, for NoneFound, as good as proven)
└── ServiceError      our own trouble; nothing was sent

A creation whose outcome is not known is no error: it is an answer (202) with the record. Anything else that was asked of Twilio
has no record that could be followed: there it is ActionUnknown. So every 5xx of ours means that no call was started and
nothing was changed, and a client that blindly repeats it does no harm.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal
from uuid import UUID

Execution = Literal["pending", "started", "not_started", "unknown"]


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of a request. `pointer` is an RFC 6901 JSON pointer into the body, or `?name`, or `Header-Name`."""

    pointer: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """What Twilio said, in Twilio's words."""

    status: int | None = None
    code: int | None = None
    message: str | None = None
    more_info: str | None = None
    request_id: str | None = None


class CommandFailed(Exception):
    """A command could not do what it was asked to. The message tells the operator why, in one line."""

    exit_code: ClassVar[int] = 1


class CallgateError(Exception):
    """An answer that is not the wished one. `detail` reaches the caller: no secret, no exception text, no SQL."""

    slug: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    execution: ClassVar[Literal["not_started", "unknown"]] = "not_started"
    # May the same request be repeated without a second ring, and under the same Idempotency-Key?
    safe: bool = True
    same_key: ClassVar[bool] = True
    default_detail: ClassVar[str] = ""

    def __init__(
        self,
        detail: str | None = None,
        *,
        call_id: UUID | None = None,
        field_errors: tuple[FieldError, ...] = (),
        upstream: Upstream | None = None,
        after_s: int | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.call_id = call_id
        self.field_errors = field_errors
        self.upstream = upstream
        self.after_s = after_s
        super().__init__(self.detail)


class ResponseTruncated(Exception):
    """An answer that was begun and cannot be finished: to cut the connection is all that is left to say so."""


class RequestError(CallgateError):
    pass


class MalformedRequest(RequestError):
    slug, status, title = "malformed-request", 400, "The request is not valid HTTP"
    default_detail = "The request is not valid HTTP/1.1, or asks for a protocol that is not spoken here."


class MalformedBody(RequestError):
    slug, status, title = "malformed-body", 400, "The body cannot be read"
    default_detail = "The body is not valid JSON: expecting value at line 1, column 8."


class Unauthorized(RequestError):
    slug, status, title = "unauthorized", 401, "No valid API key"
    default_detail = "Send a Callgate API key as `Authorization: Bearer cgk_…`; it is missing, unknown, expired or revoked."


class TenantSuspended(RequestError):
    slug, status, title = "tenant-suspended", 403, "The tenant is suspended"
    default_detail = "This tenant may not place calls until an operator resumes it; its records stay readable."


class CallbackForged(RequestError):
    slug, status, title = "callback-forged", 403, "The callback is not signed by Twilio"
    default_detail = "X-Twilio-Signature is missing, or was made with none of the account's auth tokens over the public URL."


class RouteNotFound(RequestError):
    slug, status, title = "not-found", 404, "No such address"
    default_detail = "Nothing is served at this path; /docs lists what is."


class CallNotFound(RequestError):
    slug, status, title = "call-not-found", 404, "No such call"
    default_detail = "This tenant has no call with that id or CallSid."


class SubresourceNotFound(RequestError):
    slug, status, title = "subresource-not-found", 404, "Twilio has no such thing below this call"
    default_detail = "Below this call Twilio knows nothing of that name; `upstream` has its words."


class DeliveryNotFound(RequestError):
    slug, status, title = "delivery-not-found", 404, "No such delivery"
    default_detail = "This call has no delivery with that id."


class MethodNotAllowed(RequestError):
    slug, status, title = "method-not-allowed", 405, "The method is not allowed here"
    default_detail = "This path does not take that method; the Allow header names those it takes."


class NotAcceptable(RequestError):
    slug, status, title = "not-acceptable", 406, "This is answered as JSON only"
    default_detail = "Twilio answers this path in XML, Callgate does not: add .json to it, or send `Accept: application/json`."


class RequestTimeout(RequestError):
    slug, status, title = "request-timeout", 408, "The request did not arrive in time"
    default_detail = "The rest of the request did not arrive in time, and the connection is closed."


class NoUsableCredentials(RequestError):
    slug, status, title = "no-usable-credentials", 409, "The tenant has no usable Twilio credentials"
    default_detail = "No Twilio account with an active credential belongs to this tenant; an operator adds one."


class WrongCallState(RequestError):
    slug, status, title = "wrong-call-state", 409, "The call is not in a state for this"
    default_detail = "The call has ended, or is not far enough for what was asked."


class BodyTooLarge(RequestError):
    slug, status, title = "body-too-large", 413, "The body is too large"
    default_detail = "The body is longer than 65536 bytes."


class UnsupportedMediaType(RequestError):
    slug, status, title = "unsupported-media-type", 415, "The body is not of a type taken here"
    default_detail = "Send the body as `Content-Type: application/json`."


class InvalidRequest(RequestError):
    slug, status, title = "invalid-request", 422, "The request is not valid"
    default_detail = "Nothing was sent to Twilio; `errors` lists every fault."


class HeadTooLarge(RequestError):
    slug, status, title = "head-too-large", 431, "The request head is too large"
    default_detail = "The request line and the headers may have 65536 bytes and 100 header lines together."


class IdempotencyError(CallgateError):
    pass


class CallPending(IdempotencyError):
    slug, status, title = "call-pending", 409, "The first request with this key is still under way"
    execution: ClassVar[Literal["not_started", "unknown"]] = "unknown"
    default_detail = "The call named by this Idempotency-Key is being placed; ask again in a moment."


class IdempotencyKeyReused(IdempotencyError):
    slug, status, title = "idempotency-key-reused", 422, "The Idempotency-Key names another request"
    # The call that the key names may be live, and a client that changes its request between retries may mean it.
    safe = False
    same_key = False
    default_detail = "This Idempotency-Key already names the call in `call_id`, made by a different request."


class UpstreamError(CallgateError):
    pass


class UpstreamRejected(UpstreamError):
    slug, status, title = "upstream-rejected", 422, "Twilio refused the call"
    same_key = False
    default_detail = "Twilio refused to place the call; `upstream` says why."


class UpstreamCredentialsRejected(UpstreamError):
    slug, status, title = (
        "upstream-credentials-rejected",
        502,
        "Twilio accepted none of the account's credentials",
    )
    default_detail = "Twilio refused every active credential of the account; an operator has to renew them."


class UpstreamThrottled(UpstreamError):
    slug, status, title = "upstream-throttled", 503, "Twilio is throttling the account"
    default_detail = "Twilio answered 429 to every attempt; none was processed."


class UpstreamUnreachable(UpstreamError):
    slug, status, title = "upstream-unreachable", 503, "Twilio cannot be reached"
    default_detail = "No connection to Twilio could be made; nothing was sent."


class ActionUnknown(UpstreamError):
    slug, status, title = "action-unknown", 409, "Whether Twilio did it is not known"
    # A redirect that is carried out twice may dial twice.
    safe = False
    default_detail = "The request reached Twilio, or may have, and no trustworthy answer came back. Look at the call first."


class NoneFound(UpstreamError):
    slug, status, title = "none-found", 409, "Twilio shows no such call"
    # A guess: should it be wrong, a new key rings a second phone.
    safe = False
    same_key = False
    default_detail = (
        "The outcome of this call was unknown, and Twilio's list has shown no such call since: it was not started as far as "
        "can be known. To place it, take a new Idempotency-Key."
    )


class ServiceError(CallgateError):
    pass


class InternalError(ServiceError):
    slug, status, title = "internal-error", 500, "Something went wrong inside"
    default_detail = "The request failed before any call was placed; the request id finds it in the log."


class DatabaseUnavailable(ServiceError):
    slug, status, title = "database-unavailable", 503, "The database cannot be reached"
    default_detail = (
        "Without its database Callgate does nothing. This request placed no call; an earlier one with its key may have."
    )
    # For logs and probes; see app/database/errors.py.
    reason: str = "unavailable"
    # Whether what was to be committed may have been committed all the same.
    commit_in_doubt: bool = True


class Overloaded(ServiceError):
    slug, status, title = "overloaded", 503, "Too many creations or lists are under way"
    default_detail = "As many creations are under way as this process, or this tenant in it, may have at one time."


class TooManyConnections(ServiceError):
    slug, status, title = "too-many-connections", 503, "Too many connections are open"
    default_detail = "Every connection that this process may have is busy. Nothing was read from this one."


class ShuttingDown(ServiceError):
    slug, status, title = "shutting-down", 503, "The process is stopping"
    default_detail = "This process finishes what it has begun and takes no new creation."


def _leaves(cls: type[CallgateError]) -> list[type[CallgateError]]:
    found = [leaf for child in cls.__subclasses__() for leaf in _leaves(child)]
    return found or [cls]


def all_errors() -> dict[str, type[CallgateError]]:
    """Every error that can reach a caller, by slug."""
    return {error.slug: error for error in _leaves(CallgateError)}
