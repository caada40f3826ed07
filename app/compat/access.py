"""Authenticates requests to Twilio's paths with HTTP Basic, as Twilio does. The password is a Callgate API key.

The key alone identifies the tenant. The user name grants nothing: it may be any account SID (a main account's SID also for the
path of a subaccount), the SID of a Twilio API key (`SK…`) or the id of the Callgate key. An invalid key gives Twilio's error
20003. An account that does not belong to the key's tenant gives 20404, whether or not it exists.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request

from app.errors import CallNotFound, NotAcceptable, Unauthorized
from app.http.authentication import authenticate_key, require_tenant_caller
from app.http.routes import ScopedRoute
from app.tenants.api_keys import key_prefix
from app.tenants.caller import Caller
from app.tenants.directory import TenantDirectory
from app.twilio.schemas import ACCOUNT_SID_PATTERN

_SID_AS_USERNAME = re.compile(r"(?:AC|SK)[0-9a-fA-F]{32}")
# The URL of a recording's audio ends with .mp3 or .wav, or has no suffix, as in Twilio's `RecordingUrl`.
_PATH_NOT_ANSWERED_IN_XML = re.compile(r"\.(json|mp3|wav)$|/Accounts/[^/]+/Recordings/[^/.]+$")


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """The account in the path; it belongs to the caller's tenant."""

    caller: Caller
    account_id: UUID
    account_sid: str


async def own_account(request: Request, account_sid: str) -> OwnAccount:
    """Returns the account in the path, if it belongs to the caller's tenant.

    Raises the errors of `authenticate_key`, NotAcceptable, and CallNotFound for any other account.
    """
    user, key = _parse_authorization(request.headers.get("Authorization", ""))
    caller = require_tenant_caller(await authenticate_key(request, key))
    if user is not None and not _SID_AS_USERNAME.fullmatch(user) and user not in (key_prefix(key), str(caller.key_id)):
        raise Unauthorized
    _require_json(request)
    if not ACCOUNT_SID_PATTERN.fullmatch(account_sid):
        raise CallNotFound
    tenants: TenantDirectory = request.state.tenants
    account_id = await tenants.account_id(caller.tenant_id, account_sid=account_sid)
    if account_id is None:
        raise CallNotFound
    return OwnAccount(caller, account_id, account_sid)


AccountDep = Annotated[OwnAccount, Depends(own_account)]


class TwilioRoute(ScopedRoute):
    """A route under one of Twilio's paths. It authenticates with HTTP Basic, as Twilio does."""

    def authentication(self) -> Callable[..., Any]:
        return own_account


def _parse_authorization(authorization: str) -> tuple[str | None, str]:
    """Returns the user name, which is None with the Bearer scheme, and the key. Raises Unauthorized."""
    scheme, _, parameter = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return None, parameter.strip()
    if scheme.lower() != "basic":
        raise Unauthorized
    try:
        user, separator, key = base64.b64decode(parameter.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthorized from None
    if not separator:
        raise Unauthorized
    return user, key


def _require_json(request: Request) -> None:
    """Raises NotAcceptable for a path without `.json`, where Twilio answers in XML, unless the client accepts JSON."""
    accept = request.headers.get("Accept", "").lower()
    if not _PATH_NOT_ANSWERED_IN_XML.search(request.url.path) and "application/json" not in accept:
        raise NotAcceptable
