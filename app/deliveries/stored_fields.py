"""Computes the values of a delivery that are not in its row, because the call's row or the event's row has them. No I/O."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from app.calls.callback_fields import CallForCallbackFields, restore_callback_fields


class StoredCallbackFields(NamedTuple):
    """The fields of a callback that Twilio sent, in the short form in which the call's event stores them.

    `data` has the fields that are stored. A field is left out if the row of the call has the same value, or if its value is a
    known constant. The bits of `left_out` say which fields are left out (app.calls.callback_fields). `left_out` is None if
    `data` has all fields.
    """

    data: Mapping[str, Any]
    left_out: int | None

    def restore_left_out_fields(self, call: CallForCallbackFields) -> Mapping[str, Any]:
        """Returns all fields of Twilio's callback. The fields that were left out get their values from `call`."""
        return restore_callback_fields(call, self.data, self.left_out)


def webhook_id(call_id: UUID, event: str) -> str:
    """Returns the webhook id of an event: the same in every attempt to deliver it, so that receivers recognize repetitions."""
    return f"msg_{call_id.hex}_{event}"
