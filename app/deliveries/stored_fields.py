"""Computes the values of a delivery that its row does not store, because its call or its event has them. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from app.calls.callback_fields import CallIdentity, all_fields


class ReportedFields(NamedTuple):
    """The fields of a callback of Twilio, as the call's event stores them in `data`.

    Fields whose values the call's record has are not stored. The bits of `left_out` say which ones; None: all are stored.
    """

    data: Mapping[str, Any]
    left_out: int | None

    def whole(self, call: CallIdentity) -> Mapping[str, Any]:
        """Returns all fields of Twilio's callback: those stored, and those left out, whose values are taken from the call."""
        return all_fields(call, self.data, self.left_out)


def webhook_id(call_id: UUID, event: str) -> str:
    """Returns the webhook id of an event: the same in every attempt to deliver it, so that receivers recognize repetitions."""
    return f"msg_{call_id.hex}_{event}"
