"""Types of a tenant's callback settings. Converts the JSON object `callbacks` of the admin API to these settings."""

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

CallbackMethod = Literal["GET", "POST"]
CallbackFormat = Literal["twilio", "json"]
TwilioEvent = Literal["initiated", "ringing", "answered", "completed"]
TWILIO_EVENTS: Final[tuple[TwilioEvent, ...]] = get_args(TwilioEvent)
DeliveryEvent = Literal["settled", TwilioEvent]
"""An event that Callgate can deliver: one of Twilio's events, or Callgate's event `settled` (how a creation ended)."""

SETTINGS_BY_CALLBACK_MEMBER: Final = {
    "url": "status_callback",
    "method": "status_callback_method",
    "events": "status_callback_events",
    "format": "callback_format",
}
"""The name of the tenant's setting for each member of the JSON object `callbacks` (admin API and files of `callgate apply`)."""


def parse_callback_settings(members: Mapping[str, Any]) -> dict[str, Any]:
    """Converts members of the JSON object `callbacks` to settings of a tenant, by name. Members that are missing are left out.

    A null `url` also sets the method and the events of callbacks to None, unless `members` contains values for them.
    """
    removed = {"status_callback_method": None, "status_callback_events": None}
    given = {setting: members[name] for name, setting in SETTINGS_BY_CALLBACK_MEMBER.items() if name in members}
    return removed | given if members.get("url", "") is None else given
