"""The status callbacks that a creation requests: StatusCallback, StatusCallbackMethod, StatusCallbackEvent.

https://www.twilio.com/docs/voice/api/call-resource#statuscallbackevent
"""

from dataclasses import dataclass
from enum import StrEnum

from simulator.form import Form


class CallEvent(StrEnum):
    """The events of a call that a status callback reports, in the order in which they happen."""

    INITIATED = "initiated"
    RINGING = "ringing"
    ANSWERED = "answered"
    COMPLETED = "completed"
    """The call has ended, with any status."""


DEFAULT_EVENTS = frozenset({CallEvent.COMPLETED})


@dataclass(frozen=True, slots=True)
class CallbackSubscription:
    url: str
    method: str = "POST"
    events: frozenset[CallEvent] = DEFAULT_EVENTS

    @classmethod
    def parse(cls, form: Form) -> "CallbackSubscription | None":
        """Returns the callbacks that the form requests; None if it has no StatusCallback.

        Each StatusCallbackEvent names one event. A value that names no event, or several, is ignored.
        """
        url = form.get("StatusCallback")
        if url is None:
            return None
        names = form.get_all("StatusCallbackEvent")
        events = frozenset(event for event in CallEvent if event in names) if names else DEFAULT_EVENTS
        return cls(url, form.get("StatusCallbackMethod") or "POST", events)
