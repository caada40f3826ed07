"""Twilio's side of a status callback: signed by Twilio's own package, sent to the gateway."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import httpx
from twilio.request_validator import RequestValidator

from tests.support.gateway import Gateway, Tenant

PUBLIC_URL = "https://calls.example.com/gate"


def progress(
    tenant: Tenant, record: Mapping[str, Any], status: str, sequence: int | None = None, **more: str
) -> dict[str, str]:
    """The fields of a callback for this call."""
    numbered = {} if sequence is None else {"SequenceNumber": str(sequence), "CallbackSource": "call-progress-events"}
    return {"CallSid": record["sid"], "AccountSid": tenant.account_sid, "CallStatus": status, **numbered, **more}


async def call_back(
    gateway: Gateway,
    tenant: Tenant,
    call_id: str,
    fields: Mapping[str, str | list[str]],
    *,
    method: str = "POST",
    query: str = "",
    url: str | None = None,
) -> httpx.Response:
    """As Twilio sends it to `gateway` (or to another replica at `url`)."""
    path = f"/callbacks/twilio/{call_id}"
    encoded = urlencode(fields, doseq=True)
    if method == "GET":
        query = encoded
    path += f"?{query}" if query else ""
    posted = fields if method == "POST" else {}
    signature = RequestValidator(tenant.auth_token).compute_signature(PUBLIC_URL + path, _Repeated(posted))
    headers = {"X-Twilio-Signature": signature}
    if method == "POST":
        headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
    async with httpx.AsyncClient(base_url=url or gateway.url) as twilio:
        return await twilio.request(method, path, headers=headers, content=encoded if method == "POST" else None)


class _Repeated(dict[str, Any]):
    """What the package reads repeated keys from."""

    def getlist(self, name: str) -> list[str]:
        value = self[name]
        return value if isinstance(value, list) else [value]
