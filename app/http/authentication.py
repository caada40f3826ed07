"""Who calls us. Routers only see `CallerDep`; a request without a genuine key never reaches a handler."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Unauthorized
from app.observability.context import bind
from app.tenants.directory import TenantDirectory

_KEY_LENGTH_LIMIT = 128

bearer = HTTPBearer(
    scheme_name="ApiKey",
    description="A Callgate API key (`cgk_…`), made with `callgate keys create TENANT`. It is never one of Twilio's.",
    auto_error=False,
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated internal service behind a request; it acts for one tenant."""

    tenant_id: str
    key_id: UUID
    suspended: bool


async def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Raises Unauthorized, which says neither whether a key exists nor what is wrong with it."""
    if credentials is None:
        raise Unauthorized
    return await caller_with(request, credentials.credentials)


async def caller_with(request: Request, key: str) -> Caller:
    """Who shows this API key, whatever way it came. Raises Unauthorized."""
    if len(key) > _KEY_LENGTH_LIMIT or not (key.isascii() and key.isprintable()):
        raise Unauthorized
    tenants: TenantDirectory = request.state.tenants
    known = await tenants.find_key(key)
    if known is None:
        raise Unauthorized
    bind(tenant_id=known.tenant_id, key_id=str(known.key_id))
    return Caller(known.tenant_id, known.key_id, known.suspended)


CallerDep = Annotated[Caller, Depends(authenticate)]
