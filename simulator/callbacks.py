"""When which callback is sent.

Nothing is scheduled for good: a call's plan may change, so what is due is read from the plan when the moment
comes. Callbacks of one call are sent one after the other; those of different calls side by side.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count

import httpx

from simulator.accounts import Accounts
from simulator.background import Background
from simulator.chaos import Chaos
from simulator.config import SimulatorConfig, utc_now
from simulator.deliveries import Deliveries
from simulator.notice import Notice, planned_notices
from simulator.store import Call
from simulator.subscription import Event


@dataclass(slots=True)
class Watched:
    """A call with callbacks to send."""

    call: Call
    told: set[Event] = field(default_factory=set)
    held_back: list[Notice] = field(default_factory=list)
    last: asyncio.Task[None] | None = None


class Callbacks:
    def __init__(self, config: SimulatorConfig, accounts: Accounts) -> None:
        self._clock = config.clock
        self._accounts = accounts
        self._watched: dict[str, Watched] = {}
        self._agenda: list[tuple[datetime, int, Watched]] = []
        """A heap. The number keeps calls of the same moment in order."""
        self._numbers = count()
        self._agenda_changed = asyncio.Event()
        self._sending = Background()
        self._http: httpx.AsyncClient | None = None
        self.chaos = Chaos()
        self.deliveries = Deliveries(config.clock, config.max_calls)

    @property
    def waiting(self) -> int:
        """Calls that have not ended, or whose end is still to be told."""
        return len(self._watched)

    @property
    def sending(self) -> int:
        """Deliveries under way, or behind another of their call."""
        return len(self._sending)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """With the machine's clock, callbacks are sent when their moment comes; with another, by `send_due`."""
        try:
            async with self._sending, Background() as firing:
                if self._clock is utc_now:
                    firing.start(self._send_when_due())
                yield
        finally:
            if self._http is not None:
                await self._http.aclose()

    def watch(self, call: Call) -> None:
        """To be called for a new call, and whenever its plan has changed."""
        if call.subscription is not None:
            watched = self._watched.setdefault(call.sid, Watched(call))
            self._enter(call.plan.created_at, watched)

    async def send_due(self) -> None:
        """Begins all that is due now, and waits until it was answered or has failed."""
        begun = [self._begin(watched, notice) for watched, notice in self._take_due(self._clock())]
        if begun:
            await asyncio.wait(begun)

    async def send_due_of(self, call: Call) -> None:
        """The same, for one call."""
        watched = self._watched.get(call.sid)
        if watched is not None:
            begun = [self._begin(watched, notice) for notice in self._due(watched, self._clock())]
            if begun:
                await asyncio.wait(begun)

    def reset(self) -> None:
        self._sending.cancel()
        self._watched.clear()
        self._agenda.clear()
        self.deliveries.clear()
        self.chaos = Chaos()

    async def _send_when_due(self) -> None:
        while True:
            for watched, notice in self._take_due(self._clock()):
                self._begin(watched, notice)
            self._agenda_changed.clear()
            wait_s = (self._agenda[0][0] - self._clock()).total_seconds() if self._agenda else None
            try:
                async with asyncio.timeout(wait_s):
                    await self._agenda_changed.wait()
            except TimeoutError:
                continue

    def _take_due(self, now: datetime) -> Iterator[tuple[Watched, Notice]]:
        while self._agenda and self._agenda[0][0] <= now:
            moment, _, watched = heappop(self._agenda)
            for notice in self._due(watched, moment):
                yield watched, notice
            self._plan_ahead(watched, moment)

    def _due(self, watched: Watched, now: datetime) -> Iterator[Notice]:
        """In the order in which they are to be sent."""
        for moment, notice in self._untold(watched):
            if moment > now:
                break
            watched.told.add(notice.event)
            if self.chaos.fate(watched.call, notice.event).held_back:
                watched.held_back.append(notice)
                continue
            yield notice
            yield from self._release(watched)
        if not self._untold(watched):
            yield from self._release(watched)

    def _release(self, watched: Watched) -> Iterator[Notice]:
        held_back, watched.held_back = watched.held_back, []
        return iter(held_back)

    def _untold(self, watched: Watched) -> list[tuple[datetime, Notice]]:
        """By the moment of sending, which is later than that of the event by the delay drawn for it."""
        untold = [notice for notice in planned_notices(watched.call) if notice.event not in watched.told]
        timed = [(self._sent_at(notice), notice) for notice in untold]
        return sorted(timed, key=lambda item: (item[0], item[1].sequence))

    def _sent_at(self, notice: Notice) -> datetime:
        return notice.happened_at + timedelta(seconds=self.chaos.fate(notice.call, notice.event).delay_s)

    def _plan_ahead(self, watched: Watched, now: datetime) -> None:
        """A call is watched to its end, so that what was told is remembered when an update changes its plan."""
        ended_at = watched.call.plan.ended_at
        if untold := self._untold(watched):
            self._enter(untold[0][0], watched)
        elif ended_at is not None and ended_at > now:
            self._enter(ended_at, watched)
        elif ended_at is not None:
            self._watched.pop(watched.call.sid, None)

    def _enter(self, moment: datetime, watched: Watched) -> None:
        heappush(self._agenda, (moment, next(self._numbers), watched))
        self._agenda_changed.set()

    def _begin(self, watched: Watched, notice: Notice) -> asyncio.Task[None]:
        watched.last = self._sending.start(self._send(notice, after=watched.last))
        return watched.last

    async def _send(self, notice: Notice, after: asyncio.Task[None] | None) -> None:
        if after is not None and not after.done():
            await asyncio.wait([after])
        fate = self.chaos.fate(notice.call, notice.event)
        if fate.lost:
            self.deliveries.begin(notice, lost=True)
            return
        account = self._accounts.get(notice.call.account_sid)
        auth_token = account.signing_token if account is not None else None
        for is_duplicate in (False, True) if fate.duplicated else (False,):
            delivery = self.deliveries.begin(notice, is_duplicate=is_duplicate)
            await self.deliveries.send(self._client(), delivery, auth_token)

    def _client(self) -> httpx.AsyncClient:
        """Built on first use: reading the machine's certificates takes time, and most calls have no callback.

        No connection is kept, so that a receiver that was restarted is one that cannot be reached, not one
        that broke a connection.
        """
        if self._http is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._http = httpx.AsyncClient(verify=ssl.create_default_context(), limits=limits, trust_env=False)
        return self._http
