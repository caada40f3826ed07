"""Authenticates requests by the service account token of a Kubernetes workload."""

from fastapi import Request

from app.errors import Unauthorized, WorkloadKeysUnavailable
from app.http.key_attempts import FailedAuthenticationLimiter
from app.observability import Metrics
from app.observability.context import bind_log_fields
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.directory import TenantDirectory, api_key_digest
from app.workloads.authentication import WorkloadTokenValidator
from app.workloads.key_set import JwkSetUnavailable
from app.workloads.service_accounts import ServiceAccount
from app.workloads.tokens import RefusalReason, TokenRefused

_NOT_A_WORKLOAD_DETAIL = "The service account of the token is not a workload of Callgate: an operator has to add it."


def looks_like_token(text: str) -> bool:
    """Returns whether the text contains a dot. Every JSON Web Token contains one, and no API key does."""
    return "." in text


async def authenticate_workload(request: Request, token: str) -> Caller | OperatorCaller:
    """Returns the client that is registered for the token's service account. It acts for a tenant or for an operator.

    Raises Unauthorized if this Callgate accepts no tokens, if the token is not valid, or if no client is registered. Raises
    TooManyAttempts if the client's address has sent too many wrong keys, and WorkloadKeysUnavailable if the token cannot be
    checked at the moment.
    """
    account = await _service_account(request, token)
    directory: TenantDirectory = request.state.directory
    caller = await directory.find_client_of_workload(account)
    if caller is None:
        bind_log_fields(service_account=account.name, namespace=account.namespace)
        raise _refused_token_error(request, "no_workload", _NOT_A_WORKLOAD_DETAIL)
    return caller


async def _service_account(request: Request, token: str) -> ServiceAccount:
    """Returns the service account of a token. Validates the token, unless it is in the cache of valid tokens.

    Raises the errors of `authenticate_workload`.
    """
    tokens: WorkloadTokenValidator | None = request.state.workload_tokens
    if tokens is None:
        raise _refused_token_error(
            request, "not_configured", "This Callgate accepts no service account tokens: send an API key."
        )
    return tokens.cached_service_account(token) or await _validate_uncached_token(request, tokens, token)


async def _validate_uncached_token(request: Request, tokens: WorkloadTokenValidator, token: str) -> ServiceAccount:
    """Validates a token that is not in the cache of valid tokens, and returns its service account.

    Counts a refused token as a wrong key from the client's address. Raises the errors of `authenticate_workload`.
    """
    attempts: FailedAuthenticationLimiter = request.state.key_attempts
    address, digest = attempts.rate_limit_address(request.scope), api_key_digest(token)
    attempts.require_below_failure_limit(address, digest)
    try:
        account = await tokens.validate(token)
    except TokenRefused as error:
        attempts.record_wrong_key(address, digest)
        raise _refused_token_error(request, error.reason, error.detail) from None
    except JwkSetUnavailable:
        raise WorkloadKeysUnavailable(retry_after_s=5) from None
    attempts.record_valid_key(digest)
    return account


def _refused_token_error(request: Request, reason: RefusalReason, detail: str) -> Unauthorized:
    """Counts a refused token in the metrics, adds the reason to the request's log line, and returns the error to raise."""
    metrics: Metrics = request.state.metrics
    metrics.workloads.refused.labels(reason).inc()
    bind_log_fields(token_refused=reason)
    return Unauthorized(detail)
