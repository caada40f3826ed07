"""Examples of accounts and credentials for the OpenAPI document."""

from typing import Any

ACCOUNT_SID = "AC" + "a" * 32
_KEY_SID = "SK" + "b" * 32
CREDENTIAL_ID = "01a20722-9f00-7c3e-9d4b-3f6f0c7b2a11"
# Not secrets: these texts describe what to put there.
_AUTH_TOKEN_MEMBERS = {"auth_token": "the-auth-token-of-the-account"}
_API_KEY_MEMBERS = {"key_sid": _KEY_SID, "secret": "the-secret-of-the-API-key"}

CREDENTIAL: dict[str, Any] = {
    "id": CREDENTIAL_ID,
    "kind": "api_key",
    "key_sid": _KEY_SID,
    "created_at": "2026-11-23T09:30:00.123Z",
    "last_used_at": "2026-11-28T12:00:31.004Z",
    "rejected_at": None,
    "rejected_reason": None,
}
ACCOUNT: dict[str, Any] = {
    "account_sid": ACCOUNT_SID,
    "base_url": None,
    "pace": {"calls_per_second": 1, "burst": 2, "max_concurrent": 10},
    "credentials": [CREDENTIAL],
    "created_at": "2026-11-23T09:30:00.123Z",
}
ACCOUNT_CREATIONS: dict[str, Any] = {
    "auth_token": {"summary": "With its auth token", "value": {"account_sid": ACCOUNT_SID} | _AUTH_TOKEN_MEMBERS},
    "api_key": {
        "summary": "With an API key, in a region",
        "value": {"account_sid": ACCOUNT_SID, "base_url": "https://api.dublin.ie1.twilio.com"} | _API_KEY_MEMBERS,
    },
}
CREDENTIAL_CREATIONS: dict[str, Any] = {
    "auth_token": {"summary": "An auth token", "value": _AUTH_TOKEN_MEMBERS},
    "api_key": {"summary": "An API key", "value": _API_KEY_MEMBERS},
}
ACCOUNT_CHANGES: dict[str, Any] = {
    "pace": {
        "summary": "A call per second, and at most ten at once",
        "value": {"pace": {"calls_per_second": 1, "max_concurrent": 10}},
    },
    "unlimited": {"summary": "No limits", "value": {"pace": None}},
}
RESPONSE_BODIES: dict[str, Any] = {
    "account": {"summary": "An account", "value": ACCOUNT},
    "new_account": {"summary": "A new account", "value": ACCOUNT | {"pace": None}},
    "accounts": {"summary": "The last page", "value": {"accounts": [ACCOUNT], "next_cursor": None}},
    "credential": {"summary": "An API key", "value": CREDENTIAL},
}
