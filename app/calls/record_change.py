"""A change of a call's record that records the outcome, or makes a scheduled call wait again to be dialled."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class RecordChange:
    """The columns to set and the event to write when a call's outcome is recorded, or a call must wait to be dialled again.

    `times` maps columns to offsets from the current time of the database's clock. An offset of None sets the column to null.
    """

    columns: Mapping[str, Any]
    times: Mapping[str, timedelta | None]
    event: str
    data: Mapping[str, Any]
    dial_row: Mapping[str, Any] | None = None
    """The row of `scheduled_dial` to insert if the call is to wait again, otherwise None.

    It has the column `due_in` (in seconds) instead of `due_at`.
    """

    def apply_to(self, call: object, *, now: datetime) -> None:
        """Sets the columns of a record in memory. `now` is the database's time in the transaction that writes the record."""
        for name, value in self.columns.items():
            setattr(call, name, value)
        for name, offset in self.times.items():
            setattr(call, name, None if offset is None else now + offset)


def make_record_change(
    event: str,
    data: Mapping[str, Any],
    columns: Mapping[str, Any],
    *,
    refresh_in: timedelta | None = None,
    search_in: timedelta | None = None,
) -> RecordChange:
    """Returns a change that sets `columns` and writes one event, which has the type `event` and the members of `data`.

    The record is refreshed from Twilio after `refresh_in`, and Twilio's list is searched for the call after `search_in`; None
    means never. `clean_searches`, the number of searches that did not find the call, becomes 0. `settled_at` becomes the time
    of the change, or null if `columns` sets `execution` to `unknown` or `scheduled`.
    """
    settled_in = None if columns["execution"] in ("unknown", "scheduled") else timedelta(0)
    times = {"settled_at": settled_in, "refresh_at": refresh_in, "search_at": search_in}
    return RecordChange({**columns, "clean_searches": 0}, times, event, data)
