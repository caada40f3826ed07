"""Examples for the OpenAPI document: bodies of requests that create or update a subresource of a call."""

from typing import Any

_STOP_BODY: dict[str, Any] = {"status": "stopped"}

# Keys are Twilio's name of the subresource, and the action.
EXAMPLE_BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("Recordings", "create"): {
        "recording_channels": "dual",
        "recording_status_callback": "https://calls.example.com/recordings",
        "recording_status_callback_event": ["completed"],
    },
    ("Recordings", "update"): {"status": "paused", "pause_behavior": "silence"},
    ("Payments", "create"): {
        "status_callback": "https://calls.example.com/payments",
        "charge_amount": "20.45",
        "currency": "usd",
        "payment_method": "credit-card",
    },
    ("Payments", "update"): {
        "status_callback": "https://calls.example.com/payments",
        "capture": "payment-card-number",
    },
    ("Transcriptions", "create"): {
        "name": "support-4711",
        "track": "both_tracks",
        "language_code": "en-US",
        "status_callback_url": "https://calls.example.com/transcriptions",
    },
    ("Transcriptions", "update"): _STOP_BODY,
    ("Siprec", "create"): {
        "name": "siprec-4711",
        "connector_name": "connector",
        "track": "both_tracks",
        "parameters": {"department": "support"},
    },
    ("Siprec", "update"): _STOP_BODY,
    ("Streams", "create"): {
        "url": "wss://media.example.com/audio",
        "name": "stream-4711",
        "track": "inbound_track",
        "parameters": {"customer": "4711"},
    },
    ("Streams", "update"): _STOP_BODY,
    ("UserDefinedMessages", "create"): {"content": '{"greeting": "Hello Kate"}'},
    ("UserDefinedMessageSubscriptions", "create"): {"callback": "https://calls.example.com/messages", "method": "POST"},
}
