"""The errors of the service. Each class fixes its slug, HTTP status, execution and retry advice.

CallgateError
├── RequestError      the request cannot be read, is invalid, or is not allowed
├── IdempotencyError  the Idempotency-Key belongs to another request, or to one that is in progress
├── UpstreamError     Twilio did not carry out the request; only NoneFound and ActionUnknown are not proven
└── ServiceError      the service itself failed; nothing was sent to Twilio

A creation with an unknown outcome is not an error: the response is 202 with the record. Other requests to Twilio have no record
to follow, so an unknown outcome is ActionUnknown (409). Every 5xx therefore means that no call was started and nothing was
changed, and a client may repeat the request without harm.
"""

from typing import ClassVar, Literal, Self

from app.callgate_error import CallgateError, Execution, FieldError, Upstream

__all__ = ["CallgateError", "Execution", "FieldError", "Upstream"]


class CommandFailed(Exception):
    """A command failed. The message gives the reason in one line, for the operator."""

    exit_code: ClassVar[int] = 1


class ResponseTruncated(Exception):
    """A response that has started cannot be completed. The server closes the connection to signal this."""


class RequestError(CallgateError):
    pass


class MalformedRequest(RequestError):
    slug, status, title = "malformed-request", 400, "The request is not valid HTTP"
    default_detail = "The request is not valid HTTP/1.1, or asks for a protocol that is not supported."


class MalformedBody(RequestError):
    slug, status, title = "malformed-body", 400, "The body cannot be read"
    default_detail = "The body is not valid JSON: expecting value at line 1, column 8."


class Unauthorized(RequestError):
    slug, status, title = "unauthorized", 401, "No valid API key"
    default_detail = (
        "Send a Callgate API key as `Authorization: Bearer cgk_…`. The key is missing, unknown, expired or revoked."
    )


class TenantSuspended(RequestError):
    slug, status, title = "tenant-suspended", 403, "The tenant is suspended"
    default_detail = "This tenant cannot place calls until an operator resumes it. Its records can still be read."


class ScopeRequired(RequestError):
    slug, status, title = "scope-required", 403, "The API key lacks a scope"
    default_detail = "This request needs an API key with another scope."

    @classmethod
    def of(cls, scope: str) -> Self:
        return cls(f"This request needs an API key with the scope `{scope}`, which this key does not have.", scope=scope)


class TenantKeyRequired(RequestError):
    slug, status, title = "tenant-key-required", 403, "An API key of a tenant is required"
    default_detail = "This request acts for one tenant, and the API key is an operator's: send an API key of the tenant."


class OperatorKeyRequired(RequestError):
    slug, status, title = "operator-key-required", 403, "An API key of an operator is required"
    default_detail = "Only an operator may do this: send an API key of an operator."


class TooManyAttempts(RequestError):
    slug, status, title = "too-many-attempts", 429, "Too many wrong API keys"
    default_detail = (
        "Too many requests with wrong API keys came from this address, and this key is not known to be valid. Nothing was done."
    )


class CallbackForged(RequestError):
    slug, status, title = "callback-forged", 403, "The callback is not signed by Twilio"
    default_detail = "X-Twilio-Signature is missing, or does not match the public URL with any auth token of the account."


class RouteNotFound(RequestError):
    slug, status, title = "not-found", 404, "Not found"
    default_detail = "No route matches this path; /docs lists the routes."


class CallNotFound(RequestError):
    slug, status, title = "call-not-found", 404, "Call not found"
    default_detail = "This tenant has no call with this id or CallSid."


class TenantNotFound(RequestError):
    slug, status, title = "tenant-not-found", 404, "Tenant not found"
    default_detail = "There is no tenant with this id, or the API key is of another tenant."


class ResourceNotFound(RequestError):
    slug, status, title = "resource-not-found", 404, "Not found in this tenant"
    default_detail = "This tenant has no credential with this id."


class SubresourceNotFound(RequestError):
    slug, status, title = "subresource-not-found", 404, "Subresource not found"
    default_detail = "Twilio has no such subresource of this call; `upstream` has Twilio's error."


class DeliveryNotFound(RequestError):
    slug, status, title = "delivery-not-found", 404, "Delivery not found"
    default_detail = "This call has no delivery with this id."


class QueueNotFound(RequestError):
    slug, status, title = "queue-not-found", 404, "Queue not found"
    default_detail = "This tenant has no queue with this name."


class MethodNotAllowed(RequestError):
    slug, status, title = "method-not-allowed", 405, "Method not allowed"
    default_detail = "This path does not support the method; the Allow header lists the methods that it supports."


class NotAcceptable(RequestError):
    slug, status, title = "not-acceptable", 406, "Only JSON is available"
    default_detail = "Callgate does not support XML: add .json to the path, or send `Accept: application/json`."


class RequestTimeout(RequestError):
    slug, status, title = "request-timeout", 408, "The request did not arrive in time"
    default_detail = "The rest of the request did not arrive in time. The connection is closed."


class NoUsableCredentials(RequestError):
    slug, status, title = "no-usable-credentials", 409, "The tenant has no usable Twilio credentials"
    default_detail = "This tenant has no Twilio account with an active credential. An operator has to add one."


class AlreadyExists(RequestError):
    slug, status, title = "already-exists", 409, "It exists, and differs"
    default_detail = "The tenant exists with another name."


class WrongCallState(RequestError):
    slug, status, title = "wrong-call-state", 409, "The call's state does not allow this"
    default_detail = "The call has ended, or has not reached the state that this request needs."


class PreconditionFailed(RequestError):
    slug, status, title = "precondition-failed", 412, "It has changed since it was read"
    default_detail = "The ETag in If-Match is not the present one: read it again, and decide whether to repeat the change."


class BodyTooLarge(RequestError):
    slug, status, title = "body-too-large", 413, "The body is too large"
    default_detail = "The body is longer than the limit of 65536 bytes."


class UnsupportedMediaType(RequestError):
    slug, status, title = "unsupported-media-type", 415, "Unsupported media type"
    default_detail = "Send the body as `Content-Type: application/json`."


class InvalidRequest(RequestError):
    slug, status, title = "invalid-request", 422, "The request is not valid"
    default_detail = "Nothing was sent to Twilio; `errors` lists every fault."


class HeadTooLarge(RequestError):
    slug, status, title = "head-too-large", 431, "The request head is too large"
    default_detail = "The request line and the headers are longer than 65536 bytes, or have more than 100 header lines."


class RingByPassed(RequestError):
    slug, status, title = "ring-by-passed", 409, "The call was not dialled in time"
    same_key = False
    default_detail = "The call could not be dialled before its `ring_by`. It did not ring."


class CanceledBeforeDial(RequestError):
    slug, status, title = "canceled-before-dial", 409, "The call was canceled before it was dialled"
    same_key = False
    default_detail = "The scheduled call was canceled while it waited. It did not ring."


class IdempotencyError(CallgateError):
    pass


class CallPending(IdempotencyError):
    slug, status, title = "call-pending", 409, "The first request with this key is still in progress"
    execution: ClassVar[Literal["not_started", "unknown"]] = "unknown"
    default_detail = "The call with this Idempotency-Key is being placed. Repeat the request in a moment."


class IdempotencyKeyReused(IdempotencyError):
    slug, status, title = "idempotency-key-reused", 422, "The Idempotency-Key belongs to another request"
    # The client may have changed its request between two retries, and the first attempt may have placed the call.
    safe = False
    same_key = False
    default_detail = "This Idempotency-Key was used with a different request, whose record is `call_id`."


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
    default_detail = "Twilio refused every active credential of the account. An operator has to renew them."


class UpstreamThrottled(UpstreamError):
    slug, status, title = "upstream-throttled", 503, "Twilio is throttling the account"
    default_detail = "Twilio answered every attempt with 429; none was processed."


class UpstreamUnreachable(UpstreamError):
    slug, status, title = "upstream-unreachable", 503, "Twilio cannot be reached"
    default_detail = "No connection to Twilio could be made; nothing was sent."


class ActionUnknown(UpstreamError):
    slug, status, title = "action-unknown", 409, "It is unknown whether Twilio carried out the request"
    # A redirect that is carried out twice may dial twice.
    safe = False
    default_detail = (
        "The request may have reached Twilio, and no reliable answer came back. Check the call before repeating it."
    )


class NoneFound(UpstreamError):
    slug, status, title = "none-found", 409, "No such call was found at Twilio"
    # Not safe to repeat: that no call exists is not certain. If Twilio started it after all, a new key places a second one.
    safe = False
    same_key = False
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


class WorkloadKeysUnavailable(ServiceError):
    slug, status, title = "workload-keys-unavailable", 503, "The keys for service account tokens are unavailable"
    default_detail = "The key of this service account token is not known, and the issuer's key set cannot be read now."


class Overloaded(ServiceError):
    slug, status, title = "overloaded", 503, "Too many creations or lists are in progress"
    default_detail = "Too many creations are in progress for this tenant or in this process."


class TooManyConnections(ServiceError):
    slug, status, title = "too-many-connections", 503, "Too many connections are open"
    default_detail = "All connections of this process are busy. Nothing was read from this one."


class ShuttingDown(ServiceError):
    slug, status, title = "shutting-down", 503, "The process is shutting down"
    default_detail = "This process completes the requests that it has begun and accepts no new creation."


def _leaf_classes(cls: type[CallgateError]) -> list[type[CallgateError]]:
    found = [leaf for child in cls.__subclasses__() for leaf in _leaf_classes(child)]
    return found or [cls]


def all_errors() -> dict[str, type[CallgateError]]:
    """Returns the class of every error that can reach a caller, by slug."""
    return {error.slug: error for error in _leaf_classes(CallgateError)}
