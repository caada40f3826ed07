"""The types of a tenant's settings for callbacks, and their conversion from the JSON object `callbacks`."""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

CallbackMethod = Literal["GET", "POST"]
CallbackFormat = Literal["twilio", "json"]
TwilioEvent = Literal["initiated", "ringing", "answered", "completed"]
TWILIO_EVENTS: Final[tuple[TwilioEvent, ...]] = get_args(TwilioEvent)
DeliveryEvent = Literal["settled", TwilioEvent]
"""Twilio's events, and `settled`, which Callgate adds."""

SETTINGS_BY_CALLBACK_MEMBER: Final = {
    "url": "status_callback",
    "method": "status_callback_method",
    "events": "status_callback_events",
    "format": "callback_format",
}
"""The setting of a tenant for each member of `callbacks` in the admin API and in a file of `callgate apply`."""


def callback_settings(members: Mapping[str, Any]) -> dict[str, Any]:
    """Converts members of the JSON object `callbacks` to settings of a tenant. A null URL also removes method and events."""
    removed = {"status_callback_method": None, "status_callback_events": None}
    given = {setting: members[name] for name, setting in SETTINGS_BY_CALLBACK_MEMBER.items() if name in members}
    return removed | given if members.get("url", "") is None else given
