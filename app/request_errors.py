"""Errors of requests that cannot be read, are invalid, are not allowed, or do not fit the state of the call.

app/errors.py shows all errors.
"""

from typing import Self

from app.callgate_error import CallgateError

__all__ = [
    "AlreadyExists",
    "BodyTooLarge",
    "CallNotFound",
    "CallbackForged",
    "CanceledBeforeDial",
    "DeliveryNotFound",
    "HeadTooLarge",
    "InvalidRequest",
    "MalformedBody",
    "MalformedRequest",
    "MethodNotAllowed",
    "NoUsableCredentials",
    "NotAcceptable",
    "OperatorKeyRequired",
    "OriginRefused",
    "PreconditionFailed",
    "QueueNotFound",
    "RequestError",
    "RequestTimeout",
    "ResourceNotFound",
    "RingByDeadlinePassed",
    "RouteNotFound",
    "ScopeRequired",
    "SubresourceNotFound",
    "TenantKeyRequired",
    "TenantNotFound",
    "TenantSuspended",
    "TooManyAttempts",
    "Unauthorized",
    "UnsupportedMediaType",
    "WrongCallState",
]


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
        "Too many requests with wrong API keys or service account tokens came from this address, and this one is not known "
        "to be valid. Nothing was done."
    )


class OriginRefused(RequestError):
    slug, status, title = "origin-refused", 403, "The request does not come from the console"
    default_detail = (
        "The `Origin` header is missing, or is not the console's own address. Nothing was changed. Open the console again, and "
        "repeat the action there."
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
    default_detail = "Callgate does not support XML: add .json to the path, or let `Accept` allow application/json."


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


class RingByDeadlinePassed(RequestError):
    slug, status, title = "ring-by-passed", 409, "The call was not dialled in time"
    repeat_with_same_key = False
    default_detail = "The call could not be dialled before the time by which it had to ring. It did not ring."


class CanceledBeforeDial(RequestError):
    slug, status, title = "canceled-before-dial", 409, "The call was canceled before it was dialled"
    repeat_with_same_key = False
    default_detail = "The scheduled call was canceled while it waited. It did not ring."
