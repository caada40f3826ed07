"""Examples of SIP credentials for the OpenAPI document."""

from typing import Any

CREDENTIAL_NAME = "pbx-berlin"
CREDENTIAL: dict[str, Any] = {
    "name": CREDENTIAL_NAME,
    "created_at": "2026-11-23T09:30:00.123Z",
    "updated_at": "2026-11-28T12:00:31.004Z",
}
# Not secrets: these texts describe what to put there.
_SIP_AUTH = {"username": "berlin", "password": "the password of the SIP endpoint"}
CREATION_BODIES: dict[str, Any] = {
    "sip_credential": {"summary": "A user name and a password", "value": {"name": CREDENTIAL_NAME} | _SIP_AUTH}
}
REPLACEMENT_BODIES: dict[str, Any] = {"sip_auth": {"summary": "Another user name and password", "value": _SIP_AUTH}}
RESPONSE_BODIES: dict[str, Any] = {
    "sip_credential": {"summary": "A SIP credential", "value": CREDENTIAL},
    "sip_credentials": {"summary": "The last page", "value": {"sip_credentials": [CREDENTIAL], "next_cursor": None}},
}
