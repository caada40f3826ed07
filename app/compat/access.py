"""Who asks, and for which of its accounts. By Basic, as at Twilio; the password is a Callgate API key and says who asks.

The user grants nothing. It is any account's SID (a main account's for a subaccount's path, too), an API key's (`SK…`), or the
id of the Callgate key. A key that is not genuine is 20003. An account that is not the key's tenant's is 20404, whoever's it is,
or nobody's.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from app.errors import CallNotFound, NotAcceptable, Unauthorized
from app.http.authentication import Caller, authenticate_key
from app.tenants.api_keys import key_prefix
from app.tenants.directory import TenantDirectory

_ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_USER = re.compile(r"(?:AC|SK)[0-9a-fA-F]{32}")
# A recording's sound is asked for by its suffix, or, as `RecordingUrl` has it, by none.
_NOT_XML = re.compile(r"\.(json|mp3|wav)$|/Accounts/[^/]+/Recordings/[^/.]+$")


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """The account of the path, which is the caller's tenant's."""

    caller: Caller
    account_id: UUID
    account_sid: str


async def own_account(request: Request, account_sid: str) -> OwnAccount:
    """In this order: Unauthorized, NotAcceptable, CallNotFound."""
    user, key = _credentials(request.headers.get("Authorization", ""))
    caller = await authenticate_key(request, key)
    if user is not None and not _USER.fullmatch(user) and user not in (key_prefix(key), str(caller.key_id)):
        raise Unauthorized
    _require_json(request)
    if not _ACCOUNT_SID.fullmatch(account_sid):
        raise CallNotFound
    tenants: TenantDirectory = request.state.tenants
    account_id = await tenants.account_id(caller.tenant_id, account_sid=account_sid)
    if account_id is None:
        raise CallNotFound
    return OwnAccount(caller, account_id, account_sid)


AccountDep = Annotated[OwnAccount, Depends(own_account)]


def _credentials(authorization: str) -> tuple[str | None, str]:
    """User (None: as Bearer, which names none) and key."""
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
    """Without `.json` Twilio answers XML; who asks so for JSON is answered."""
    wanted = request.headers.get("Accept", "").lower()
    if not _NOT_XML.search(request.url.path) and "application/json" not in wanted:
        raise NotAcceptable
