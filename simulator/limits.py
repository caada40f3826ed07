"""The limits of an account: calls dialled per second, the length of the queue, and concurrent calls.

Twilio puts calls above the rate into a queue, in the order of creation. It refuses a call that would wait longer than a day
(https://www.twilio.com/docs/api/errors/22005), or that exceeds the limit of concurrent calls
(https://www.twilio.com/docs/api/errors/10004).
"""

from collections import OrderedDict
from datetime import datetime, timedelta
from math import ceil

from pydantic import BaseModel, ConfigDict, Field

from simulator.errors import TwilioError
from simulator.lifecycle import plan_moved_by
from simulator.store import Call

MAX_QUEUE_TIME_S = 86_400


class AccountLimits(BaseModel):
    """The limits of an account (`PUT /_simulator/accounts/{sid}/limits`). By default an account has no limits.

    All times are seconds of the simulator's clock. The simulator's speed does not change them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls_per_second: float | None = Field(
        None, ge=0.001, le=1000, description="Calls that are dialled per second, evenly spaced. Others wait in a queue."
    )
    queue_s: float = Field(
        MAX_QUEUE_TIME_S,
        ge=0,
        le=MAX_QUEUE_TIME_S,
        description="A call that would wait longer than this is refused with 22005.",
    )
    max_concurrent: int | None = Field(
        None, ge=0, description="Calls that have not ended, queued ones included. Further ones are refused with 10004."
    )

    @property
    def is_unlimited(self) -> bool:
        return self.calls_per_second is None and self.max_concurrent is None


class AccountQueue:
    """The queue and the concurrent calls of an account with limits. Computes when each call leaves the queue."""

    def __init__(self, limits: AccountLimits) -> None:
        self.limits = limits
        self._waiting: OrderedDict[str, Call] = OrderedDict()
        """The calls that wait in the queue, by sid, in the order in which they will leave it."""
        self._last_dialled_at: datetime | None = None
        """When the last call left the queue or was dialled without waiting."""
        self._concurrent: list[Call] = []
        """All calls that have not ended, and some ended calls that were not removed yet."""

    def queue_time_of_new_call(self, now: datetime) -> timedelta:
        """Returns how long a new call waits in the queue. Raises error 10004 or 22005 if the call exceeds a limit."""
        most = self.limits.max_concurrent
        if most is not None and len(self._concurrent) >= most:
            self._concurrent = [call for call in self._concurrent if not call.plan.has_ended(now)]
            if len(self._concurrent) >= most:
                raise TwilioError(10004)
        self._remove_dialled_calls(now)
        last = next(reversed(self._waiting.values())).plan.leaves_queue_at if self._waiting else self._last_dialled_at
        queue_time = self._dial_time_after(last, now) - now
        if queue_time > timedelta(seconds=self.limits.queue_s):
            raise TwilioError(22005)
        return queue_time

    def add(self, call: Call) -> None:
        """Adds a new call. Its plan must have the queue time that `queue_time_of_new_call` returned."""
        if self.limits.max_concurrent is not None:
            self._concurrent.append(call)
        if call.plan.queue_time:
            self._waiting[call.sid] = call
        else:
            self._last_dialled_at = call.plan.created_at

    def remove_ended_call(self, call: Call, now: datetime) -> list[Call]:
        """Removes a call that has ended from the queue, if it waits there.

        Returns the calls that leave the queue earlier because of this.
        """
        self._remove_dialled_calls(now)
        return self._recompute_queue_times(now) if self._waiting.pop(call.sid, None) is not None else []

    def change_limits(self, limits: AccountLimits, concurrent: list[Call], now: datetime) -> list[Call]:
        """Replaces the limits. Existing calls stay; `concurrent` has those that have not ended.

        Returns the calls whose time to leave the queue has changed.
        """
        self._remove_dialled_calls(now)
        self.limits, self._concurrent = limits, concurrent
        return self._recompute_queue_times(now)

    def _remove_dialled_calls(self, now: datetime) -> None:
        """Removes from the queue all calls whose time to leave it is not later than `now`."""
        while self._waiting:
            turn = next(iter(self._waiting.values())).plan.leaves_queue_at
            if turn > now:
                return
            self._waiting.popitem(last=False)
            self._last_dialled_at = turn

    def _dial_time_after(self, last: datetime | None, now: datetime) -> datetime:
        rate = self.limits.calls_per_second
        if rate is None or last is None:
            return now
        return max(now, last + timedelta(microseconds=ceil(1_000_000 / rate)))

    def _recompute_queue_times(self, now: datetime) -> list[Call]:
        """Computes again when each waiting call leaves the queue, and moves the plans of the calls accordingly.

        Returns the calls for which this time has changed.
        """
        changed, turn = [], self._last_dialled_at
        for call in self._waiting.values():
            turn = self._dial_time_after(turn, now)
            if turn != call.plan.leaves_queue_at:
                call.plan = plan_moved_by(call.plan, turn - call.plan.leaves_queue_at)
                changed.append(call)
        return changed


class AccountQueueRegistry:
    """The accounts that have limits, by account sid. An account without limits of its own has the limits `default`."""

    def __init__(self, default: AccountLimits) -> None:
        self._default = default
        self._accounts: dict[str, AccountQueue] = {}

    def get_or_create(self, account_sid: str) -> AccountQueue | None:
        """Returns the queue and concurrent calls of the account; None if the account has no limits.

        Creates them at first use.
        """
        account = self._accounts.get(account_sid)
        if account is None and not self._default.is_unlimited:
            account = self._accounts[account_sid] = AccountQueue(self._default)
        return account

    def limits_of(self, account_sid: str) -> AccountLimits:
        account = self._accounts.get(account_sid)
        return self._default if account is None else account.limits

    def change_limits(self, account_sid: str, limits: AccountLimits, concurrent: list[Call], now: datetime) -> list[Call]:
        """Changes the limits of an account. `concurrent` has its calls that have not ended.

        Returns the calls whose time to leave the queue has changed.
        """
        return self._accounts.setdefault(account_sid, AccountQueue(limits)).change_limits(limits, concurrent, now)
