"""Examples of API keys for the OpenAPI document."""

from typing import Any

KEY: dict[str, Any] = {
    "id": "cgk_0123456789ab",
    "name": "dialler",
    "scopes": ["call", "read"],
    "state": "active",
    "created_at": "2026-11-23T09:30:00.123Z",
    "expires_at": "2027-11-23T00:00:00Z",
    "revoked_at": None,
    "last_used_at": None,
}
CREATION_BODIES: dict[str, Any] = {
    "key": {
        "summary": "A key for a service",
        "value": {"name": "dialler", "scopes": ["call", "read"], "expires_at": "2027-11-23T00:00:00Z"},
    },
    "admin": {"summary": "A key that manages the tenant", "value": {"name": "terraform", "scopes": ["admin"]}},
}
RESPONSE_BODIES: dict[str, Any] = {
    "created_key": {"summary": "The only answer with the key", "value": KEY | {"key": "cgk_0123456789ab_…"}},
    "key_created_before": {"summary": "Created by an earlier request", "value": KEY | {"key": None}},
    "keys": {"summary": "The last page", "value": {"keys": [KEY], "next_cursor": None}},
}
