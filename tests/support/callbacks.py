"""Sends status callbacks to the gateway as Twilio does, signed with Twilio's own package."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx
from twilio.request_validator import RequestValidator

from app.calls.callback_urls import CallbackUrls
from app.calls.repository import account_ids_by_call_id
from app.security.keyring import Keyring
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant

PUBLIC_URL = "https://calls.example.com/gate"


def status_callback_fields(
    tenant: Tenant, record: Mapping[str, Any], status: str, sequence: int | None = None, **more: str
) -> dict[str, str]:
    """Returns the form fields of a status callback for the call in `record`."""
    numbered = {} if sequence is None else {"SequenceNumber": str(sequence), "CallbackSource": "call-progress-events"}
    return {"CallSid": record["sid"], "AccountSid": tenant.account_sid, "CallStatus": status, **numbered, **more}


async def callback_path(gateway: Gateway, call_id: str) -> str:
    """Returns the path and query of the callback URL that Twilio received for this call."""
    async with gateway.database.begin() as session:
        account_id = (await account_ids_by_call_id(session, [UUID(call_id)]))[UUID(call_id)]
    return CallbackUrls("/callbacks/twilio", Keyring(gateway.settings.require_secret_keys())).callback_url_of_call(
        UUID(call_id), account_id
    )


async def call_back(
    gateway: Gateway,
    tenant: Tenant,
    call_id: str,
    fields: Mapping[str, str | list[str]],
    *,
    method: str = "POST",
    query: str = "",
    url: str | None = None,
    path: str | None = None,
) -> httpx.Response:
    """Sends a signed callback to `gateway`, or to another replica at `url`. `query` is added to the callback URL's query."""
    path = path or await callback_path(gateway, call_id)
    encoded = urlencode(fields, doseq=True)
    if method == "GET":
        query = encoded
    path += f"&{query}" if query else ""
    posted = fields if method == "POST" else {}
    signature = RequestValidator(tenant.auth_token).compute_signature(PUBLIC_URL + path, _Repeated(posted))
    headers = {"X-Twilio-Signature": signature}
    if method == "POST":
        headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
    async with http_client(base_url=url or gateway.url) as twilio:
        return await twilio.request(method, path, headers=headers, content=encoded if method == "POST" else None)


class _Repeated(dict[str, Any]):
    """A mapping with `getlist`, from which Twilio's package reads the values of repeated keys."""

    def getlist(self, name: str) -> list[str]:
        value = self[name]
        return value if isinstance(value, list) else [value]
