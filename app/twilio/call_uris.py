"""Builds Twilio's URIs of a call and its subresources: https://www.twilio.com/docs/voice/api/call-resource#call-properties."""

from app.setting_values import TWILIO_API_VERSION
from app.twilio.subresources import SUBRESOURCES

# Sorted as Postgres sorts the members of a JSON object (jsonb): by length, then by bytes.
_NAMES_AND_SEGMENTS = sorted(
    ((one.snake_case_name, one.segment) for one in SUBRESOURCES), key=lambda each: (len(each[0]), each[0])
)


def call_uri(account_sid: str, sid: str) -> str:
    return f"{_call_path(account_sid, sid)}.json"


def subresource_uris(account_sid: str, sid: str) -> dict[str, str]:
    path = _call_path(account_sid, sid)
    return {key: f"{path}/{segment}.json" for key, segment in _NAMES_AND_SEGMENTS}


def account_uri(account_sid: str) -> str:
    return f"/{TWILIO_API_VERSION}/Accounts/{account_sid}"


def _call_path(account_sid: str, sid: str) -> str:
    return f"{account_uri(account_sid)}/Calls/{sid}"
