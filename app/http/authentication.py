"""Authenticates requests by API key. A handler that depends on `CallerDep` never runs without a valid key."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import TenantKeyRequired, Unauthorized
from app.observability.context import bind
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.directory import TenantDirectory

_MAX_KEY_LENGTH = 128

bearer = HTTPBearer(
    scheme_name="ApiKey",
    description="A Callgate API key (`cgk_…`), created with `callgate keys create TENANT`. Twilio's keys are not accepted.",
    auto_error=False,
)


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Returns the caller. Raises Unauthorized, which does not tell whether the key exists or what is wrong with it."""
    if credentials is None:
        raise Unauthorized
    return await authenticate_key(request, credentials.credentials)


async def authenticate_key(request: Request, key: str) -> Caller:
    """Returns the caller to whom this API key belongs. Raises Unauthorized, or TenantKeyRequired for an operator's key."""
    if len(key) > _MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise Unauthorized
    tenants: TenantDirectory = request.state.tenants
    known = await tenants.find_key(key)
    if known is None:
        raise Unauthorized
    caller = known.caller
    if isinstance(caller, OperatorCaller):
        raise TenantKeyRequired
    bind(tenant_id=caller.tenant_id, key_id=str(caller.key_id))
    return caller


CallerDep = Annotated[Caller, Depends(authenticate)]
