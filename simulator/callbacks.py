"""Schedules the status callbacks of calls.

The schedule has only the times at which to check a call. The callbacks to send are computed at such a time, because an update
may have changed the call's plan (the times at which its state changes). The callbacks of one call are sent one after another,
unless the fault setting `overlap` is on. Callbacks of different calls do not wait for each other.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count

from simulator.accounts import AccountStore
from simulator.background import BackgroundTaskSet
from simulator.callback_client import CallbackClient
from simulator.callback_faults import CallbackFaultSettings
from simulator.config import SimulatorConfig, utc_now
from simulator.deliveries import CallbackSender
from simulator.planned_callback import PlannedCallback, planned_callbacks
from simulator.store import Call
from simulator.subscription import CallEvent


@dataclass(slots=True)
class WatchedCall:
    """A call with a StatusCallback, and its callbacks that were not sent yet."""

    call: Call
    unsent: list[tuple[datetime, PlannedCallback]] = field(default_factory=list)
    """The callbacks that were not sent yet, each with the time to send it, in the order of these times."""
    unsent_computed_with: CallbackFaultSettings | None = None
    """The fault settings with which `unsent` was computed; None if `unsent` must be computed before its next use."""
    sent_events: set[CallEvent] = field(default_factory=set)
    held_back: list[PlannedCallback] = field(default_factory=list)
    last_sending: asyncio.Task[None] | None = None


class CallbackScheduler:
    """Schedules and sends the callbacks of all calls. `deliveries` has the callbacks that were sent, with their answers."""

    def __init__(self, config: SimulatorConfig, accounts: AccountStore) -> None:
        self._clock = config.clock
        self._accounts = accounts
        self._watched: dict[str, WatchedCall] = {}
        self._schedule: list[tuple[datetime, int, WatchedCall]] = []
        """A heap of times at which to check a call. The number keeps entries of the same time in the order of insertion."""
        self._tiebreak = count()
        self._schedule_changed = asyncio.Event()
        self._sending = BackgroundTaskSet()
        self._client = CallbackClient()
        self.fault_settings = CallbackFaultSettings()
        self.deliveries = CallbackSender(config.clock, config.max_calls)

    @property
    def waiting_call_count(self) -> int:
        """The number of calls with a StatusCallback that have not ended or still have callbacks to send."""
        return len(self._watched)

    @property
    def unfinished_callback_count(self) -> int:
        """The number of callbacks that are being sent, or that wait for an earlier callback of the same call."""
        return len(self._sending)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends each callback at its time, until the `async with` block ends.

        If the simulator uses a test's own clock, sends nothing by itself: the test has to call `send_all_due_callbacks`.
        """
        try:
            async with self._sending, BackgroundTaskSet() as firing:
                if self._clock is utc_now:
                    firing.start(self._send_when_due())
                yield
        finally:
            self._client.close()

    def schedule_callbacks(self, call: Call) -> None:
        """Schedules the callbacks of a call. Does nothing if the call has no StatusCallback.

        Must be called for each new call and after each change of `call.plan`, which has the times at which its state changes.
        """
        if call.subscription is not None:
            watched = self._watched.setdefault(call.sid, WatchedCall(call))
            watched.unsent_computed_with = None
            self._schedule_next_check_or_unwatch(watched, call.plan.created_at)

    async def send_all_due_callbacks(self) -> None:
        """Sends all callbacks whose time has come. Returns when each of them was answered or has failed."""
        sendings = [self._start_sending(watched, callback) for watched, callback in self._take_all_due_callbacks(self._clock())]
        if sendings:
            await asyncio.wait(sendings)

    async def send_due_callbacks_of(self, call: Call) -> None:
        """Sends the callbacks of this call whose time has come. Returns when each of them was answered or has failed."""
        watched = self._watched.get(call.sid)
        if watched is not None:
            sendings = [self._start_sending(watched, callback) for callback in self._take_due_callbacks(watched, self._clock())]
            if sendings:
                await asyncio.wait(sendings)

    def reset(self) -> None:
        self._sending.cancel()
        self._watched.clear()
        self._schedule.clear()
        self.deliveries.clear()
        self.fault_settings = CallbackFaultSettings()

    async def _send_when_due(self) -> None:
        while True:
            for watched, callback in self._take_all_due_callbacks(self._clock()):
                self._start_sending(watched, callback)
            self._schedule_changed.clear()
            wait_s = (self._schedule[0][0] - self._clock()).total_seconds() if self._schedule else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._schedule_changed.wait()
            except TimeoutError:
                continue

    def _take_all_due_callbacks(self, now: datetime) -> Iterator[tuple[WatchedCall, PlannedCallback]]:
        while self._schedule and self._schedule[0][0] <= now:
            moment, _, watched = heappop(self._schedule)
            for callback in self._take_due_callbacks(watched, moment):
                yield watched, callback
            self._schedule_next_check_or_unwatch(watched, moment)

    def _take_due_callbacks(self, watched: WatchedCall, now: datetime) -> Iterator[PlannedCallback]:
        """Yields the callbacks of a call that are to be sent by `now`, in the order of sending, and marks them as sent.

        A callback that a fault holds back comes after the next callback of the call, or last if there is no other.
        """
        unsent = self._unsent_callbacks(watched)
        while unsent and unsent[0][0] <= now:
            _, callback = unsent.pop(0)
            watched.sent_events.add(callback.event)
            if self.fault_settings.draw_callback_faults(watched.call, callback.event).held_back:
                watched.held_back.append(callback)
                continue
            yield callback
            yield from self._take_held_back_callbacks(watched)
        if not unsent:
            yield from self._take_held_back_callbacks(watched)

    def _take_held_back_callbacks(self, watched: WatchedCall) -> Iterator[PlannedCallback]:
        """Removes the callbacks that a fault held back from the list of the call, and returns them."""
        held_back, watched.held_back = watched.held_back, []
        return iter(held_back)

    def _unsent_callbacks(self, watched: WatchedCall) -> list[tuple[datetime, PlannedCallback]]:
        """Returns the callbacks that were not sent yet, each with the time to send it, in the order of these times."""
        if watched.unsent_computed_with is not self.fault_settings:
            unsent = [callback for callback in planned_callbacks(watched.call) if callback.event not in watched.sent_events]
            timed = [(self._send_time_of(callback), callback) for callback in unsent]
            watched.unsent = sorted(timed, key=lambda item: (item[0], item[1].sequence))
            watched.unsent_computed_with = self.fault_settings
        return watched.unsent

    def _send_time_of(self, callback: PlannedCallback) -> datetime:
        """Returns the time at which to send the callback: the time of its event plus a random delay."""
        return callback.happened_at + timedelta(
            seconds=self.fault_settings.draw_callback_faults(callback.call, callback.event).delay_s
        )

    def _schedule_next_check_or_unwatch(self, watched: WatchedCall, now: datetime) -> None:
        """Schedules the next check of a call: when its next callback is to be sent, or else at its planned end.

        Stops watching a call that has ended and has no unsent callbacks. Until its end, every call is watched, because an
        update may add callbacks. `watched` also has the events whose callbacks were sent, so that none is sent again.
        """
        ended_at = watched.call.plan.ended_at
        if unsent := self._unsent_callbacks(watched):
            self._schedule_check(unsent[0][0], watched)
        elif ended_at is not None and ended_at > now:
            self._schedule_check(ended_at, watched)
        elif ended_at is not None:
            self._watched.pop(watched.call.sid, None)

    def _schedule_check(self, moment: datetime, watched: WatchedCall) -> None:
        entry = moment, next(self._tiebreak), watched
        heappush(self._schedule, entry)
        if self._schedule[0] is entry:
            self._schedule_changed.set()

    def _start_sending(self, watched: WatchedCall, callback: PlannedCallback) -> asyncio.Task[None]:
        earlier = None if self.fault_settings.overlap else watched.last_sending
        watched.last_sending = self._sending.start(self._send(callback, after=earlier))
        return watched.last_sending

    async def _send(self, callback: PlannedCallback, after: asyncio.Task[None] | None) -> None:
        if after is not None and not after.done():
            await asyncio.wait([after])
        faults = self.fault_settings.draw_callback_faults(callback.call, callback.event)
        if faults.lost:
            self.deliveries.begin_delivery(callback, lost=True)
            return
        account = self._accounts.get(callback.call.account_sid)
        auth_token = account.callback_signing_key if account is not None else None
        copies = (False, True) if faults.duplicated else (False,)
        if self.fault_settings.overlap:
            await asyncio.gather(*(self._send_copy(callback, auth_token, is_duplicate=copy) for copy in copies))
        else:
            for copy in copies:
                await self._send_copy(callback, auth_token, is_duplicate=copy)

    async def _send_copy(self, callback: PlannedCallback, auth_token: str | None, *, is_duplicate: bool) -> None:
        delivery = self.deliveries.begin_delivery(callback, is_duplicate=is_duplicate)
        await self.deliveries.send(self._client, delivery, auth_token)
