"""What one callback means for its call: once, in order, forward only. Pure: works on a `Call` that the caller has locked.

Twilio's callbacks overtake each other, come twice, and may come after a look at Twilio's resource has shown more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Self

from app.calls.models import Call
from app.calls.progress import is_stale, take_resource
from app.twilio.schemas import CALL_SID, CallResource

Result = Literal["taken", "late", "duplicate"]

# A call has four events; more than this many callbacks of one call remember the newest.
_MARKS = 100
_LARGEST_SEQUENCE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Callback:
    """A status callback that is known to be Twilio's, with every field that it came with."""

    fields: Mapping[str, str]
    resource: CallResource
    sequence: int | None

    @classmethod
    def read(cls, fields: Mapping[str, str], *, account_sid: str) -> Self | None:
        """None when it names no call, or another account's."""
        if not CALL_SID.fullmatch(fields.get("CallSid", "")) or fields.get("AccountSid") != account_sid:
            return None
        resource = CallResource(
            sid=fields["CallSid"],
            status=fields.get("CallStatus"),
            direction=fields.get("Direction"),
            duration=fields.get("CallDuration"),
            answered_by=fields.get("AnsweredBy"),
            api_version=fields.get("ApiVersion"),
            caller_name=fields.get("CallerName"),
            forwarded_from=fields.get("ForwardedFrom"),
            parent_call_sid=fields.get("ParentCallSid"),
            raw={},
        )
        return cls(fields, resource, _sequence(fields.get("SequenceNumber", "")))

    @property
    def mark(self) -> str:
        """What makes it a repetition: its call and sequence number, or, without one, all that it says."""
        content = sorted(self.fields.items()) if self.sequence is None else (self.resource.sid, self.sequence)
        return blake2b(repr(content).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class News:
    """`events` are to be written, in this order; a duplicate has none."""

    result: Result
    events: tuple[tuple[str, dict[str, Any]], ...] = ()


def take_callback(call: Call, callback: Callback) -> News:
    """Bring the record up to date. One that names a sid which is not the call's is only noted: what it proves, if anything,
    is for the settlement to say."""
    if callback.mark in call.callbacks_seen:
        return News("duplicate")
    call.callbacks_seen = [*call.callbacks_seen, callback.mark][-_MARKS:]
    events: list[tuple[str, dict[str, Any]]] = [("call.callback", dict(callback.fields))]
    if call.sid != callback.resource.sid:
        return News("taken", tuple(events))
    late = _is_overtaken(call, callback) or is_stale(call, callback.resource)
    events += take_resource(call, callback.resource, late=late)
    note_sequence(call, callback)
    return News("late" if late else "taken", tuple(events))


def note_sequence(call: Call, callback: Callback) -> None:
    """Whatever has a lower number than this is late from now on."""
    if callback.sequence is not None and not _is_overtaken(call, callback):
        call.callback_sequence = callback.sequence


def _is_overtaken(call: Call, callback: Callback) -> bool:
    if callback.sequence is None or call.callback_sequence is None:
        return False
    return callback.sequence < call.callback_sequence


def _sequence(text: str) -> int | None:
    """Postgres's integers end somewhere; Twilio's sequence numbers end far below."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_LARGEST_SEQUENCE)):
        return None
    return number if (number := int(text)) <= _LARGEST_SEQUENCE else None
