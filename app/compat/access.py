"""Authenticates requests to Twilio's paths with HTTP Basic, as Twilio does, or with Bearer.

The password, or the Bearer token, is a Callgate API key or the token of a Kubernetes service account. It alone decides for
which tenant the request acts. The user name of HTTP Basic gives no rights, but must be one of these: any account SID (`AC…`),
any SID of a Twilio API key (`SK…`), or the id or the public prefix of the Callgate key. An invalid password or user name gives
Twilio's error 20003. If the account in the path is not the tenant's, the error is 20404, whether or not the account exists.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request

from app.errors import CallNotFound, NotAcceptable, Unauthorized
from app.http.authentication import authenticate_key_or_token, require_tenant_caller
from app.http.routes import ScopedRoute
from app.tenants.api_keys import api_key_public_part
from app.tenants.caller import Caller
from app.tenants.directory import TenantDirectory
from app.twilio.schemas import ACCOUNT_SID_PATTERN

_SID_USERNAME_PATTERN = re.compile(r"(?:AC|SK)[0-9a-fA-F]{32}")
# The URL of a recording's audio ends with .mp3 or .wav, or has no suffix, as in Twilio's `RecordingUrl`.
_PATH_NOT_ANSWERED_IN_XML = re.compile(r"\.(json|mp3|wav)$|/Accounts/[^/]+/Recordings/[^/.]+$")
# The most specific range first.
_MEDIA_RANGES_WITH_JSON = ("application/json", "application/*", "*/*")
_ZERO_QVALUE = re.compile(r"q=0(\.0*)?")


@dataclass(frozen=True, slots=True)
class RequestedAccount:
    """The Twilio account in a request's path, and the client. The account belongs to the client's tenant."""

    caller: Caller
    account_id: UUID
    account_sid: str


async def authenticate_for_account(request: Request, account_sid: str) -> RequestedAccount:
    """Authenticates the request. Returns the account in its path and the client.

    Raises the errors of `authenticate_key_or_token`, Unauthorized for a wrong user name, NotAcceptable if Twilio would answer
    in XML and the client does not accept JSON, and CallNotFound if the account does not belong to the client's tenant.
    """
    user, key = _parse_authorization(request.headers.get("Authorization", ""))
    caller = require_tenant_caller(await authenticate_key_or_token(request, key))
    if (
        user is not None
        and not _SID_USERNAME_PATTERN.fullmatch(user)
        and user not in (api_key_public_part(key), str(caller.key_id))
    ):
        raise Unauthorized
    _require_json_accepted(request)
    if not ACCOUNT_SID_PATTERN.fullmatch(account_sid):
        raise CallNotFound
    directory: TenantDirectory = request.state.directory
    account_id = await directory.find_account_id(caller.tenant_id, account_sid=account_sid)
    if account_id is None:
        raise CallNotFound
    return RequestedAccount(caller, account_id, account_sid)


AccountDep = Annotated[RequestedAccount, Depends(authenticate_for_account)]


class TwilioRoute(ScopedRoute):
    """A route under one of Twilio's paths. It authenticates with HTTP Basic, as Twilio does, or with Bearer."""

    def authentication_dependency(self) -> Callable[..., Any]:
        return authenticate_for_account


def _parse_authorization(authorization: str) -> tuple[str | None, str]:
    """Returns the user name, and the password or Bearer token. With the Bearer scheme the user name is None.

    Raises Unauthorized if the header is malformed or has another scheme.
    """
    scheme, _, parameter = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return None, parameter.strip()
    if scheme.lower() != "basic":
        raise Unauthorized
    try:
        user, separator, key = base64.b64decode(parameter.strip(), validate=True).decode().partition(":")
    except ValueError:  # also of characters that are not ASCII, and of bytes that are not UTF-8
        raise Unauthorized from None
    if not separator:
        raise Unauthorized
    return user, key


def _require_json_accepted(request: Request) -> None:
    """Raises NotAcceptable if Twilio would answer in XML (a path without `.json`) and the client does not accept JSON."""
    accept = ",".join(request.headers.getlist("Accept"))
    if not _PATH_NOT_ANSWERED_IN_XML.search(request.url.path) and not _accepts_json(accept):
        raise NotAcceptable


def _accepts_json(accept: str) -> bool:
    """Returns whether the value of an Accept header allows JSON (RFC 9110 §12.5.1). An empty value allows every type.

    The most specific of the ranges that include JSON decides. It allows JSON unless its weight is 0.
    """
    is_allowed: dict[str, bool] = {}
    for item in accept.lower().split(","):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        is_allowed[media_range] = not any(_ZERO_QVALUE.fullmatch(parameter) for parameter in parameters)
    return next((is_allowed[name] for name in _MEDIA_RANGES_WITH_JSON if name in is_allowed), not accept.strip())
