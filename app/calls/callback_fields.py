"""Shortens Twilio's callbacks for storage: leaves out fields that repeat the call's record, and restores them. Does no I/O."""

from collections.abc import Mapping
from typing import Any, Protocol

from app.calls.left_out import OmissibleMembers
from app.setting_values import TWILIO_API_VERSION

# These columns of a call do not change once it has started.
_ATTRIBUTE_BY_FIELD = {
    "CallSid": "sid",
    "AccountSid": "account_sid",
    "From": "from_",
    "Caller": "from_",
    "To": "to",
    "Called": "to",
}
_CONSTANT_FIELDS = {"ApiVersion": TWILIO_API_VERSION, "Direction": "outbound-api", "CallbackSource": "call-progress-events"}
_OMISSIBLE_FIELDS = OmissibleMembers((*_ATTRIBUTE_BY_FIELD, *_CONSTANT_FIELDS))


class CallForCallbackFields(Protocol):
    """A call's record, such as `Call` or `CallState`, with the attributes from which its callbacks are shortened and restored.

    Twilio repeats the values of all these attributes, except `execution`, in every callback.
    """

    @property
    def execution(self) -> str: ...
    @property
    def sid(self) -> str | None: ...
    @property
    def account_sid(self) -> str: ...
    @property
    def to(self) -> str: ...
    @property
    def from_(self) -> str: ...


def callback_fields_to_store(call: CallForCallbackFields, fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], int | None]:
    """Returns the callback's fields to store, and a number with one bit set for each field that is left out.

    Leaves out the fields whose values `restore_callback_fields` takes from the call's record, and those that are constant. If
    the call has not started, or the callback has another CallSid, returns all fields, and None instead of the number.
    """
    if call.execution != "started" or fields.get("CallSid") != call.sid:
        return fields, None
    return _OMISSIBLE_FIELDS.leave_out_members(
        fields, {name: _value_in_every_callback(call, name) for name in _OMISSIBLE_FIELDS.bits}
    )


def restore_callback_fields(call: CallForCallbackFields, stored: Mapping[str, Any], left_out: int | None) -> Mapping[str, Any]:
    """Returns all fields of a callback. `stored` and `left_out` are the values that `callback_fields_to_store` returned."""
    return (
        _OMISSIBLE_FIELDS.put_back_members(stored, left_out, lambda name: _value_in_every_callback(call, name))
        if left_out
        else stored
    )


def _value_in_every_callback(call: CallForCallbackFields, name: str) -> str:
    """Returns the value that the field `name` has in every callback of the call: from the call's record, or a constant."""
    constant = _CONSTANT_FIELDS.get(name)
    implied: str = getattr(call, _ATTRIBUTE_BY_FIELD[name]) if constant is None else constant
    return implied
