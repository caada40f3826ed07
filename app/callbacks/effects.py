"""Applies a status callback from Twilio to its call's record, in memory.

A repeated callback changes nothing, and the call's status never goes back to an earlier one. Twilio's callbacks can arrive out
of order or twice, or after Callgate has read a newer state from Twilio. The caller writes the changed record to the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Self

from app.calls.progress import apply_resource, is_resource_stale
from app.calls.store import CALLBACK_EVENT, CallState, NewEvent
from app.twilio.schemas import CALL_SID_PATTERN, CallResource

CallbackResult = Literal["taken", "late", "duplicate"]
"""`taken`: the callback is accepted. `late`: it is older than the record and only fills in gaps. `duplicate`: a repetition."""

# How many callbacks of a call are remembered: the newest. A call has four events, so this is more than enough.
_MAX_REPETITION_KEYS = 100
_MAX_SEQUENCE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class StatusCallback:
    """A verified status callback. `fields` has all fields; `resource` has only those that Twilio's Call resource also has.

    `sequence` is Twilio's SequenceNumber, or None if the callback has no valid one.
    """

    fields: Mapping[str, str]
    resource: CallResource
    sequence: int | None

    @classmethod
    def from_fields(cls, fields: Mapping[str, str], *, account_sid: str) -> Self | None:
        """Returns the callback with these fields; None if it has no valid CallSid, or its AccountSid is not `account_sid`."""
        if not CALL_SID_PATTERN.fullmatch(fields.get("CallSid", "")) or fields.get("AccountSid") != account_sid:
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
        return cls(fields, resource, _parse_sequence_number(fields.get("SequenceNumber", "")))

    @property
    def repetition_key(self) -> str:
        """A hash that is equal for repetitions of the same callback.

        The hash covers the CallSid and the sequence number or, if there is no number, all fields.
        """
        content = sorted(self.fields.items()) if self.sequence is None else (self.resource.sid, self.sequence)
        return blake2b(repr(content).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class CallbackEffect:
    """The result of applying a callback to a call's record: whether the callback was new, late or a repetition.

    `events` are to be written, in this order. A repetition has none.
    """

    result: CallbackResult
    events: tuple[NewEvent, ...] = ()


def apply_callback(call: CallState, callback: StatusCallback) -> CallbackEffect:
    """Applies the callback to the call's record in memory. Returns the result, and the events to write.

    If the callback has another CallSid than the record, returns only the event `call.callback`, and does not change the status.
    The caller then decides whether this CallSid belongs to the record (`Settlement.bind_twilio_call_in_memory`).
    """
    if callback.repetition_key in call.callbacks_seen:
        return CallbackEffect("duplicate")
    call.callbacks_seen = [*call.callbacks_seen, callback.repetition_key][-_MAX_REPETITION_KEYS:]
    events: list[NewEvent] = [(CALLBACK_EVENT, dict(callback.fields))]
    if call.sid != callback.resource.sid:
        return CallbackEffect("taken", tuple(events))
    late = _has_lower_sequence_number(call, callback) or is_resource_stale(call, callback.resource)
    events += apply_resource(call, callback.resource, is_outdated=late)
    update_callback_sequence(call, callback)
    return CallbackEffect("late" if late else "taken", tuple(events))


def update_callback_sequence(call: CallState, callback: StatusCallback) -> None:
    """Sets the call's sequence number to that of the callback, unless the call has a higher one.

    From then on, callbacks with a lower number count as late.
    """
    if callback.sequence is not None and not _has_lower_sequence_number(call, callback):
        call.callback_sequence = callback.sequence


def _has_lower_sequence_number(call: CallState, callback: StatusCallback) -> bool:
    """Returns whether a callback with a higher sequence number was applied before."""
    if callback.sequence is None or call.callback_sequence is None:
        return False
    return callback.sequence < call.callback_sequence


def _parse_sequence_number(text: str) -> int | None:
    """Returns Twilio's SequenceNumber, or None if the text is no number or does not fit into Postgres's `integer`."""
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_MAX_SEQUENCE)):
        return None
    return number if (number := int(text)) <= _MAX_SEQUENCE else None
