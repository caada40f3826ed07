"""Examples for the OpenAPI document: valid requests, and the records of calls that the API returns."""

from typing import Any

from app.http.openapi import json_example_references

_TWIML_URL = "http://www.example.com/sipdial.xml"
_ACCOUNT_SID = "ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
_CALL_SID = "CAaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
_CALL_URI = f"/2010-04-01/Accounts/{_ACCOUNT_SID}/Calls/{_CALL_SID}"
_SUBRESOURCES = (
    "notifications",
    "recordings",
    "payments",
    "events",
    "siprec",
    "streams",
    "transcriptions",
    "user_defined_message_subscriptions",
    "user_defined_messages",
)

REQUEST_EXAMPLES: dict[str, dict[str, Any]] = {
    "basic": {
        "summary": "A SIP call",
        "value": {"to": "sip:kate@example.com", "from": "Jack", "url": _TWIML_URL},
    },
    "authentication": {
        "summary": "With SIP authentication",
        "value": {
            "to": "sip:kate@example.com",
            "from": "Jack",
            "url": _TWIML_URL,
            "sip_auth_username": "jack",
            "sip_auth_password": "secret",
        },
    },
    "sip_credential": {
        "summary": "With a stored SIP credential",
        "description": "An operator has stored user name and password under this name: `callgate sip-credentials create`.",
        "value": {"to": "sip:kate@example.com", "from": "Jack", "url": _TWIML_URL, "sip_credential": "pbx-berlin"},
    },
    "headers": {
        "summary": "With a SIP header",
        "description": "Headers are part of the URI, percent-encoded. Only names with `X-` are sure to reach the endpoint.",
        "value": {"to": "sip:kate@example.com?X-hatchkey=4815162342", "from": "Jack", "url": _TWIML_URL},
    },
    "secure": {
        "summary": "TLS and SRTP",
        "description": "`transport=tls` encrypts signalling only; `secure=true` encrypts the audio too.",
        "value": {"to": "sip:kate@example.com;secure=true", "from": "Jack", "url": _TWIML_URL},
    },
    "progress": {
        "summary": "Inline TwiML, with progress callbacks",
        "value": {
            "to": "sip:kate@example.com;transport=tcp",
            "from": "Jack",
            "twiml": "<Response><Say>Hello Kate</Say></Response>",
            "timeout": 30,
            "status_callback": "https://calls.example.com/progress",
            "status_callback_event": ["initiated", "ringing", "answered", "completed"],
        },
    },
}

UPDATE_EXAMPLES: dict[str, dict[str, Any]] = {
    "cancel": {"summary": "Cancel the call, unless it was answered", "value": {"status": "canceled"}},
    "hang_up": {"summary": "End the call", "value": {"status": "completed"}},
    "redirect": {"summary": "Redirect the call to other TwiML", "value": {"url": "http://www.example.com/other.xml"}},
}

EXAMPLE_RECORD: dict[str, Any] = {
    "id": "01a20722-82cb-7520-b5df-0e45ebf88f42",
    "execution": "started",
    "settled_by": "response",
    "status": "queued",
    "sid": _CALL_SID,
    "account_sid": _ACCOUNT_SID,
    "to": "sip:kate@example.com",
    "from": "Jack",
    "direction": "outbound-api",
    "start_time": None,
    "end_time": None,
    "duration": None,
    "price": None,
    "price_unit": "USD",
    "answered_by": None,
    "caller_name": None,
    "to_formatted": "sip:kate@example.com",
    "from_formatted": "Jack",
    "forwarded_from": None,
    "parent_call_sid": None,
    "phone_number_sid": None,
    "group_sid": None,
    "trunk_sid": None,
    "queue_time": 0,
    "api_version": "2010-04-01",
    "date_created": None,
    "date_updated": None,
    "uri": f"{_CALL_URI}.json",
    "subresource_uris": {
        name: f"{_CALL_URI}/{''.join(word.capitalize() for word in name.split('_'))}.json" for name in _SUBRESOURCES
    },
    "idempotency_key": "order-4711",
    "parameters": {"to": "sip:kate@example.com", "from": "Jack", "url": _TWIML_URL},
    "warnings": [],
    "problem": None,
    "redial_of": None,
    "created_at": "2026-11-23T09:30:00.123Z",
    "deleted_at": None,
    "updated_at": "2026-11-23T09:30:00.345Z",
    "resource": {"sid": _CALL_SID, "status": "queued", "price": None, "price_unit": "USD"},
}

EXAMPLE_UNKNOWN_RECORD: dict[str, Any] = EXAMPLE_RECORD | {
    "execution": "unknown",
    "settled_by": None,
    "status": None,
    "sid": None,
    "direction": None,
    "price_unit": None,
    "to_formatted": None,
    "from_formatted": None,
    "queue_time": None,
    "api_version": None,
    "uri": None,
    "subresource_uris": None,
    "resource": None,
}

EXAMPLE_COMPONENTS: dict[str, Any] = {
    "started": {"summary": "Started", "value": EXAMPLE_RECORD},
    "unknown": {"summary": "Unknown", "value": EXAMPLE_UNKNOWN_RECORD},
}
STARTED_EXAMPLE = json_example_references("started")
UNKNOWN_EXAMPLE = json_example_references("unknown")
