"""Keeps the simulator's calls in memory."""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from simulator.lifecycle import CallPlan, CallProgress, progress_at, time_of_next_change
from simulator.parameters import CallParameters
from simulator.subscription import CallbackSubscription

_GET_SEQUENCE = attrgetter("sequence")


@dataclass(slots=True)
class CallStage:
    """The state of a call between two changes: from `progress.updated_at` until the time `until`.

    If `until` is None, the state never changes again under this plan.
    """

    plan: CallPlan
    progress: CallProgress
    until: datetime | None
    rendered: tuple[object, bytes] | None = None
    """The display rules with which the call was rendered, and its JSON."""

    def is_current(self, plan: CallPlan, now: datetime) -> bool:
        """Returns whether a call with this plan is still in this state at the time `now`."""
        return self.plan is plan and self.progress.updated_at <= now and (self.until is None or now < self.until)


@dataclass(slots=True)
class Call:
    sid: str
    account_sid: str
    sequence: int
    """The number of the call in the order of creation, over all accounts."""
    nth_to_destination: int
    """The number of the creation among those with the same `To`.

    `To` and this number identify the call in the same way in every run, while its sid may differ.
    """
    parameters: CallParameters
    plan: CallPlan
    subscription: CallbackSubscription | None
    hidden_until: datetime | None = None
    """No request finds the call before this time. A fault sets it, because Twilio's API is eventually consistent."""
    deleted_at: datetime | None = None
    _stage: CallStage | None = None

    def stage_at(self, now: datetime) -> CallStage:
        """Returns the state of the call at the time `now`.

        Keeps the state. Computes it again only if the call's plan was replaced, or if another state applies at `now`.
        """
        if self._stage is None or not self._stage.is_current(self.plan, now):
            self._stage = CallStage(self.plan, progress_at(self.plan, now), time_of_next_change(self.plan, now))
        return self._stage

    def is_visible(self, now: datetime) -> bool:
        is_deleted = self.deleted_at is not None and self.deleted_at <= now
        return not is_deleted and (self.hidden_until is None or self.hidden_until <= now)


class CallStore:
    """The newest `max_calls` calls, in the order of creation.

    A call that a client has deleted stays, so that a page token with its sid still works.
    """

    def __init__(self, max_calls: int) -> None:
        self._calls: OrderedDict[str, Call] = OrderedDict()
        self._by_account: dict[str, list[Call]] = {}
        self._max_calls = max_calls

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        self._calls[call.sid] = call
        self._by_account.setdefault(call.account_sid, []).append(call)
        if len(self._calls) > self._max_calls:
            _, oldest = self._calls.popitem(last=False)
            del self._by_account[oldest.account_sid][0]

    def get(self, account_sid: str, sid: str) -> Call | None:
        call = self._calls.get(sid)
        return call if call is not None and call.account_sid == account_sid else None

    def find_in_any_account(self, sid: str) -> Call | None:
        """Returns the call with this sid, whatever its account. Twilio's routes must use `get`, which checks the account."""
        return self._calls.get(sid)

    def newest_first(self, account_sid: str, *, before: Call | None = None) -> Iterator[Call]:
        """Yields the account's calls from the newest to the oldest, deleted calls included.

        If `before` is given, yields only calls that were created before it.
        """
        calls = self._by_account.get(account_sid, [])
        end = len(calls) if before is None else bisect_left(calls, before.sequence, key=_GET_SEQUENCE)
        return (calls[n] for n in range(end - 1, -1, -1))

    def oldest_first(self, account_sid: str, *, after: Call) -> Iterator[Call]:
        """Yields the account's calls that were created after `after`, from the oldest to the newest, deleted calls included."""
        calls = self._by_account.get(account_sid, [])
        return (calls[n] for n in range(bisect_right(calls, after.sequence, key=_GET_SEQUENCE), len(calls)))

    def clear(self) -> None:
        self._calls.clear()
        self._by_account.clear()
