"""Authenticates requests by API key or Kubernetes service account token, and checks that the client may use the route.

Each route declares, with `needs` or `public` (app/http/routes.py), which clients may use it.
"""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Unauthorized
from app.http.key_attempts import FailedAuthenticationLimiter
from app.http.workload_authentication import authenticate_workload, looks_like_token
from app.observability.context import bind_log_fields
from app.tenants.access import authorize
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.directory import AuthenticatedApiKey, TenantDirectory, api_key_digest

_MAX_KEY_LENGTH = 128

bearer_scheme = HTTPBearer(
    scheme_name="ApiKey",
    description="A Callgate API key (`cgk_…`), created with `callgate keys create TENANT`, or the projected service account "
    "token of a Kubernetes workload. Twilio's keys are not accepted.",
    auto_error=False,
)


async def authenticate_client(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)]
) -> Caller | OperatorCaller:
    """Returns the client to which the API key or token in the request belongs.

    Raises Unauthorized if the request has neither, and the errors of `authenticate_key_or_token`.
    """
    if credentials is None:
        raise Unauthorized
    return await authenticate_key_or_token(request, credentials.credentials)


async def authenticate_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer_scheme)]
) -> Caller:
    """Returns the client that sent the request, on a route that only clients of tenants may use.

    Raises the errors of `authenticate_client`.
    """
    return require_tenant_caller(await authenticate_client(request, credentials))


async def authenticate_key_or_token(request: Request, key_or_token: str) -> Caller | OperatorCaller:
    """Returns the client to which an API key or service account token belongs. Checks that the client may use the route.

    Raises Unauthorized if the key or token is not valid: for a token, the error names the check that failed. Raises
    ScopeRequired, TenantKeyRequired or OperatorKeyRequired if the client may not use the route. Raises TooManyAttempts if the
    client's address has sent too many wrong keys. Raises WorkloadKeysUnavailable if a token cannot be checked at the moment.
    """
    if looks_like_token(key_or_token):
        client = await authenticate_workload(request, key_or_token)
        bind_log_fields(tenant_id=client.tenant_id, workload=client.name)
        authorize(client, request.scope["route"].access)
        return client
    client = await client_of_api_key(request, key_or_token)
    bind_log_fields(tenant_id=client.tenant_id, key_id=str(client.key_id))
    authorize(client, request.scope["route"].access)
    return client


async def client_of_api_key(request: Request, key: str) -> Caller | OperatorCaller:
    """Returns the client to which an API key belongs. Does not check scopes.

    Raises Unauthorized if the key is not valid. Raises TooManyAttempts if the client's address has sent too many wrong keys.
    """
    directory: TenantDirectory = request.state.directory
    known = directory.cached_api_key(key) or await _find_key_or_count_wrong(request, directory, key)
    return known.client


async def _find_key_or_count_wrong(request: Request, directory: TenantDirectory, key: str) -> AuthenticatedApiKey:
    """Looks up in the database an API key that is not in the cache. Counts a wrong key against the client's address.

    Raises the errors of `client_of_api_key`.
    """
    attempts: FailedAuthenticationLimiter = request.state.key_attempts
    address = attempts.rate_limit_address(request.scope)
    digest = api_key_digest(key)
    attempts.require_below_failure_limit(address, digest)
    well_formed = len(key) <= _MAX_KEY_LENGTH and key.isascii() and key.isprintable()
    known = await directory.find_api_key(key) if well_formed else None
    if known is None:
        attempts.record_wrong_key(address, digest)
        raise Unauthorized
    attempts.record_valid_key(digest)
    return known


def require_tenant_caller(client: Caller | OperatorCaller) -> Caller:
    """Returns `client` if it acts for a tenant. Raises TypeError if it acts for an operator."""
    if not isinstance(client, Caller):
        raise TypeError("this route takes operators' keys: its handler depends on ClientDep")
    return client


CallerDep = Annotated[Caller, Depends(authenticate_caller)]
ClientDep = Annotated[Caller | OperatorCaller, Depends(authenticate_client)]
