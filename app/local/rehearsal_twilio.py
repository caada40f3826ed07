"""The simulator that replaces Twilio in a rehearsal: a server on a socket that uses the rehearsal's clock."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from app.database.engine import Database
from app.http.listening import open_listening_sockets
from app.http.server import server_config
from app.local import rehearsal_store as store
from app.local.server import LocalServer, StackFailed
from simulator.config import SimulatorConfig
from simulator.limits import AccountLimits
from simulator.main import create_app
from simulator.state import SimulatorState
from simulator.store import Call

_HOST = "127.0.0.1"
# Sids and durations are the same in each rehearsal.
_RANDOM_SEED = 1
_SIMULATOR_STOP_TIMEOUT_S = 5


@dataclass(slots=True)
class RehearsalClock:
    """The clock of a rehearsal, which stands still until it is set. Postgres and the simulator both use it."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    async def set(self, database: Database, at: datetime) -> None:
        self.now = at
        await store.set_clock(database, at)


@dataclass
class RehearsalTwilio:
    """The simulator that replaces Twilio in a rehearsal, and the simulator's calls that have not ended."""

    url: str
    state: SimulatorState
    _calls_under_way: dict[UUID, Call] = field(default_factory=dict)
    # A heap of the calls' ends. The number keeps calls that end at the same time in the order in which they were added.
    _ends: list[tuple[datetime, int, UUID]] = field(default_factory=list)
    _insertion_numbers: Iterator[int] = field(default_factory=itertools.count)

    def track_call(self, call_id: UUID, sid: str) -> None:
        """Follows a call of the simulator until it ends. `call_id` is the id of the call's record in Callgate."""
        call = self.state.calls.find_in_any_account(sid)
        if call is None:
            raise RuntimeError(f"the simulator has no call {sid}")
        self._calls_under_way[call_id] = call
        self._push_call_end(call_id, call)

    def reread_call_ends(self) -> None:
        """Reads again from the simulator when each call that has not ended will end.

        Must be called after the cancellation of a call in Twilio's queue, because the calls behind that call then end earlier.
        """
        self._ends.clear()
        for call_id, call in self._calls_under_way.items():
            self._push_call_end(call_id, call)

    def next_call_end(self) -> datetime | None:
        """Returns the time at which the next call ends, or None if no call will end."""
        return self._ends[0][0] if self._ends else None

    def take_ended_calls(self, at: datetime) -> list[tuple[UUID, Call]]:
        """Removes and returns the calls that have ended by the time `at`, in the order in which they ended."""
        ended = []
        while self._ends and self._ends[0][0] <= at:
            call_id = heapq.heappop(self._ends)[2]
            ended.append((call_id, self._calls_under_way.pop(call_id)))
        return ended

    def take_remaining_calls(self) -> list[tuple[UUID, Call]]:
        """Removes and returns all calls that have not ended."""
        left = list(self._calls_under_way.items())
        self._calls_under_way.clear()
        self._ends.clear()
        return left

    def _push_call_end(self, call_id: UUID, call: Call) -> None:
        if call.plan.ended_at is not None:
            heapq.heappush(self._ends, (call.plan.ended_at, next(self._insertion_numbers), call_id))


@asynccontextmanager
async def running_simulated_twilio(
    clock: RehearsalClock, limits: AccountLimits, *, call_duration_s: int, max_calls: int
) -> AsyncIterator[RehearsalTwilio]:
    """Runs a simulator of Twilio until the block ends. `limits` are the limits of its account.

    Answered calls last `call_duration_s` seconds. The simulator keeps at most `max_calls` calls.
    """
    config = SimulatorConfig(
        open_mode=True,
        talking_s=(call_duration_s, call_duration_s),
        seed=_RANDOM_SEED,
        max_calls=max_calls,
        clock=clock,
        limits=limits,
    )
    state = SimulatorState(config)
    (listener,) = open_listening_sockets(_HOST, 0)
    options = server_config(create_app(config, state), date_header=False, timeout_graceful_shutdown=_SIMULATOR_STOP_TIMEOUT_S)
    server = LocalServer("the simulator", options, [listener])
    serving = asyncio.create_task(server.run_until_exit())
    try:
        while not server.started:  # uvicorn has no event for this
            if serving.done():
                raise StackFailed("the simulator did not start")
            await asyncio.sleep(0.01)
        yield RehearsalTwilio(f"http://{_HOST}:{listener.getsockname()[1]}", state)
    finally:
        server.should_exit = True
        await asyncio.wait([serving])
        listener.close()
