"""The calls, in memory."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from simulator.lifecycle import Plan
from simulator.parameters import CallParameters
from simulator.subscription import Subscription


@dataclass(slots=True)
class Call:
    sid: str
    account_sid: str
    sequence: int
    """Number of the call in the order of creation, over all accounts."""
    nth_to_destination: int
    """Together with `To`, identifies the call in the same way in every run, unlike its sid."""
    parameters: CallParameters
    plan: Plan
    subscription: Subscription | None
    hidden_until: datetime | None = None
    """Until then fetch and list do not show the call: Twilio's API is eventually consistent."""
    deleted: bool = False

    def is_visible(self, now: datetime) -> bool:
        return not self.deleted and (self.hidden_until is None or self.hidden_until <= now)


class Calls:
    """Calls in the order of creation. A deleted call stays, so that a page token with its sid still works."""

    def __init__(self, max_calls: int) -> None:
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._max_calls = max_calls

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        self._calls[call.sid] = call
        if len(self._calls) > self._max_calls:
            self._calls.popitem(last=False)

    def get(self, account_sid: str, sid: str) -> Call | None:
        call = self._calls.get(sid)
        return call if call is not None and call.account_sid == account_sid else None

    def find(self, sid: str) -> Call | None:
        """Returns a call of any account, for the control routes."""
        return self._calls.get(sid)

    def newest_first(self, account_sid: str, now: datetime) -> Iterator[Call]:
        return (call for call in reversed(self._calls.values()) if call.account_sid == account_sid and call.is_visible(now))

    def oldest_first(self, account_sid: str, now: datetime) -> Iterator[Call]:
        return (call for call in self._calls.values() if call.account_sid == account_sid and call.is_visible(now))

    def clear(self) -> None:
        self._calls.clear()
