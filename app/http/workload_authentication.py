"""Authenticates requests by the service account token of a Kubernetes workload."""

from fastapi import Request

from app.errors import Unauthorized, WorkloadKeysUnavailable
from app.http.key_attempts import KeyAttempts
from app.observability import Metrics
from app.observability.context import bind
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.directory import TenantDirectory, digest_of
from app.workloads.authentication import WorkloadTokens
from app.workloads.key_set import KeySetUnavailable
from app.workloads.service_accounts import ServiceAccount
from app.workloads.tokens import Reason, TokenRefused

NO_WORKLOAD = "The service account of the token is not a workload of Callgate: an operator has to add it."


def may_be_token(credential: str) -> bool:
    """Returns whether a credential has the form of a JSON Web Token. No API key has it."""
    return "." in credential


async def authenticate_workload(request: Request, token: str) -> Caller | OperatorCaller:
    """Returns the client that the token belongs to.

    Raises Unauthorized, whose detail says which check failed, TooManyAttempts or WorkloadKeysUnavailable.
    """
    account = await _service_account(request, token)
    tenants: TenantDirectory = request.state.tenants
    caller = await tenants.find_workload(account)
    if caller is None:
        bind(service_account=account.name, namespace=account.namespace)
        raise _refused(request, "no_workload", NO_WORKLOAD)
    return caller


async def _service_account(request: Request, token: str) -> ServiceAccount:
    """Returns the service account of a token. A token that is remembered as valid is not validated again."""
    tokens: WorkloadTokens | None = request.state.workload_tokens
    if tokens is None:
        raise _refused(request, "not_configured", "This Callgate accepts no service account tokens: send an API key.")
    return tokens.remembered(token) or await _validate(request, tokens, token)


async def _validate(request: Request, tokens: WorkloadTokens, token: str) -> ServiceAccount:
    """Validates a token that was not found valid before. A refused token counts as a wrong key from the client's address."""
    attempts: KeyAttempts = request.state.key_attempts
    address, digest = attempts.address_of(request.scope), digest_of(token)
    attempts.require_attempt_left(address, digest)
    try:
        account = await tokens.validate(token)
    except TokenRefused as error:
        attempts.record_wrong_key(address, digest)
        raise _refused(request, error.reason, error.detail) from None
    except KeySetUnavailable:
        raise WorkloadKeysUnavailable(after_s=5) from None
    attempts.record_valid_key(digest)
    return account


def _refused(request: Request, reason: Reason, detail: str) -> Unauthorized:
    """Returns the error for a refused token. Counts the refusal, and adds its reason to the request's log line."""
    metrics: Metrics = request.state.metrics
    metrics.workloads.refused.labels(reason).inc()
    bind(token_refused=reason)
    return Unauthorized(detail)
