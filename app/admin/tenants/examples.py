"""Examples of tenants for the OpenAPI document."""

from typing import Any

from app.admin.access import EXAMPLE_TENANT_ID

HOURS: dict[str, Any] = {
    "time_zone": "Europe/Berlin",
    "days": ["mon", "tue", "wed", "thu", "fri"],
    "from": "09:00",
    "to": "18:00",
}
TENANT: dict[str, Any] = {
    "id": EXAMPLE_TENANT_ID,
    "name": "Support",
    "suspended": False,
    "suspended_at": None,
    "callbacks": {
        "url": "https://hooks.example.com/calls",
        "method": None,
        "events": ["answered", "completed"],
        "format": "json",
    },
    "limits": {"max_in_flight": 20},
    "hours": HOURS,
    "created_at": "2026-11-23T09:30:00.123Z",
}
CREATION_BODIES: dict[str, Any] = {
    "tenant": {"summary": "A tenant", "value": {"id": EXAMPLE_TENANT_ID, "name": "Support"}},
    "with_settings": {
        "summary": "With callbacks, a limit and hours",
        "value": {
            "id": EXAMPLE_TENANT_ID,
            "name": "Support",
            "callbacks": {"url": "https://hooks.example.com/calls", "events": ["answered", "completed"], "format": "json"},
            "limits": {"max_in_flight": 20},
            "hours": HOURS,
        },
    },
}
CHANGE_BODIES: dict[str, Any] = {
    "suspend": {"summary": "Suspend", "value": {"suspended": True}},
    "limit": {"summary": "Back to the limit of all tenants", "value": {"limits": {"max_in_flight": None}}},
    "hours": {"summary": "Scheduled calls may ring at any time", "value": {"hours": None}},
    "callbacks": {"summary": "Another URL for callbacks", "value": {"callbacks": {"url": "https://hooks.example.com/v2"}}},
}
RESPONSE_BODIES: dict[str, Any] = {
    "tenant": {"summary": "A tenant", "value": TENANT},
    "tenants": {"summary": "The last page", "value": {"tenants": [TENANT], "next_cursor": None}},
}
