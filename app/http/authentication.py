"""Authenticates requests by API key. A handler that depends on `CallerDep` never runs without a valid key."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Unauthorized
from app.observability.context import bind
from app.tenants.caller import Caller
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
    """Returns the caller to whom this API key belongs. Raises Unauthorized."""
    if len(key) > _MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
        raise Unauthorized
    tenants: TenantDirectory = request.state.tenants
    known = await tenants.find_key(key)
    if known is None:
        raise Unauthorized
    bind(tenant_id=known.tenant_id, key_id=str(known.key_id))
    return Caller(known.tenant_id, known.key_id, known.suspended)


CallerDep = Annotated[Caller, Depends(authenticate)]
