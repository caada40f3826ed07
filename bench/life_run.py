"""Places calls at a steady rate and follows them until each is delivered and priced."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import psycopg

from bench.life_services import SPEED, Service, Tenant
from bench.processes import cpu_seconds, parent_of
from tests.proofs.receiver import Receiver, receiving

EVENTS = ("initiated", "ringing", "answered", "completed")
PRICE_DELAY_S = 10 / SPEED
IDLE_S = 10.0
TURN_S = 5.0
WARM_UP_CALLS = 50
RECORD_EVERY_S = 0.5
CALLS_PER_S_OF_AN_ACCOUNT = 5


def accounts_for(rate: float) -> int:
    return max(1, round(rate / CALLS_PER_S_OF_AN_ACCOUNT))


@dataclass
class Run:
    """The measurements of one run. Times are seconds since the epoch."""

    service: str
    rate: float
    callbacks: bool
    seconds: float
    placed: dict[str, float] = field(default_factory=dict)
    """When each call was placed, by sid."""
    failed: int = 0
    priced: dict[str, float] = field(default_factory=dict)
    """When each call was seen to have a price in the service's database, by sid."""
    delivered: dict[str, dict[str, float]] = field(default_factory=dict)
    """When each delivery arrived at the tenant, by sid and call status."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """CPU seconds by role, without what the processes use at rest while no calls are placed."""
    idle_shares: dict[str, float] = field(default_factory=dict)
    """The share of a processor that each role uses at rest."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests to Twilio, by kind."""
    callback_s: list[float] = field(default_factory=list)
    """Seconds from Twilio's callback to its answer."""
    delivery_s: list[float] = field(default_factory=list)
    """Seconds from Twilio's callback to the tenant's receiver."""
    price_s: list[float] = field(default_factory=list)
    """Seconds from the time at which Twilio shows the price until `priced`; up to 1 s + RECORD_EVERY_S too long."""

    def is_delivered(self, sid: str) -> bool:
        return not self.callbacks or len(self.delivered.get(sid, ())) == len(EVENTS)

    def is_finished(self, sid: str) -> bool:
        return sid in self.priced and self.is_delivered(sid)

    @property
    def unfinished(self) -> int:
        return sum(not self.is_finished(sid) for sid in self.placed)

    @property
    def finished(self) -> int:
        return len(self.placed) - self.unfinished

    @property
    def cpu_ms(self) -> dict[str, float]:
        """Returns the CPU milliseconds per finished call, by role."""
        return {role: cpu * 1000 / max(self.finished, 1) for role, cpu in self.cpu_s.items()}

    @property
    def carried(self) -> float:
        """Returns the calls per second that the service keeps up with, from creation to delivered and priced.

        That is `rate`, unless calls are left unfinished or a growing backlog makes later calls take longer: calls of the second
        quarter of the run are compared with those of the last quarter.
        """
        lives = [self._life(sid) for sid in self.placed if self.is_finished(sid)]
        quarter = len(self.placed) // 4
        if self.unfinished or quarter < 2:
            return self.rate * len(lives) / max(len(self.placed), 1)
        growth = statistics.median(lives[-quarter:]) - statistics.median(lives[quarter : 2 * quarter])
        slope = growth / (self.seconds / 2)
        return self.rate / (1 + slope) if slope > 0.1 else self.rate

    def _life(self, sid: str) -> float:
        return max([self.priced[sid], *self.delivered.get(sid, {}).values()]) - self.placed[sid]


@dataclass(frozen=True)
class _CountsAtBegin:
    """What had been counted at the beginning of a run."""

    at: float
    cpu_s: Mapping[str, float]
    requests: Counter[str]
    callbacks: int


@dataclass
class Runner:
    service: Service
    twilio: str
    receiver: Receiver
    http: aiohttp.ClientSession
    database: psycopg.AsyncConnection[Any]
    patience_s: float
    run: Run
    before: _CountsAtBegin = field(init=False)

    async def warm_up(self) -> None:
        """Places calls that are not counted."""
        await self._place(self.run.rate, WARM_UP_CALLS)
        await self.finish()

    def idle_shares_since(self, at_rest: Mapping[str, float]) -> dict[str, float]:
        """Returns the share of a processor that each role used since `cpu_seconds_by_role` returned `at_rest`, IDLE_S ago."""
        return {role: (cpu - at_rest[role]) / IDLE_S for role, cpu in self.cpu_seconds_by_role().items()}

    async def begin(self, run: Run, idle_shares: dict[str, float]) -> None:
        run.idle_shares = idle_shares
        self.run = run
        requests, callbacks = await self._requests(), (await self._callbacks(10**9))["begun"]
        self.before = _CountsAtBegin(time.time(), self.cpu_seconds_by_role(), requests, callbacks)

    async def take_turn(self, seconds: float) -> None:
        """Places calls for so many seconds, and waits until their deliveries have arrived. Does not wait for their prices."""
        earlier = set(self.run.placed)
        await self._place(self.run.rate, round(self.run.rate * seconds))
        await self._wait_while(lambda: any(not self.run.is_delivered(sid) for sid in self.run.placed.keys() - earlier))

    async def end(self) -> None:
        """Writes the measurements into the run. What the processes use at rest is subtracted for the time without a turn."""
        run, before = self.run, self.before
        at_rest_s = max(time.time() - before.at - run.seconds, 0)
        run.cpu_s = {
            role: cpu - before.cpu_s[role] - run.idle_shares[role] * at_rest_s
            for role, cpu in self.cpu_seconds_by_role().items()
        }
        run.requests = await self._requests() - before.requests
        if run.callbacks:
            self._time_callbacks((await self._callbacks(before.callbacks))["deliveries"])
        await self._time_prices()

    def cpu_seconds_by_role(self) -> dict[str, float]:
        looking = self.database.info.backend_pid
        postgres = cpu_seconds(parent_of(looking), without=frozenset([looking]))
        return {role: cpu_seconds(pid) for role, pid in self.service.pids.items()} | {"Postgres": postgres}

    async def _place(self, rate: float, number: int) -> None:
        """Creates `number` calls, `rate` per second, without waiting for the answers to earlier ones."""
        tenants = self.service.tenants[: accounts_for(rate)]
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for n in range(number):
                await asyncio.sleep(max(0, began + n / rate - time.monotonic()))
                tasks.create_task(self._create(tenants[n % len(tenants)], n))

    async def _create(self, tenant: Tenant, number: int) -> None:
        body: dict[str, Any] = {
            "to": f"sip:kate@{number}.example.com;transport=tls",
            "from": "Jack",
            "url": "http://www.example.com/sipdial.xml",
            "timeout": 30,
        }
        if self.run.callbacks:
            body |= {"status_callback": f"{self.receiver.url}/json/{tenant.account_sid}", "status_callback_event": EVENTS}
        headers = {"Authorization": f"Bearer {tenant.key}", "Idempotency-Key": f"{time.time_ns()}-{number}"}
        began = time.time()
        try:
            async with self.http.post(f"{self.service.url}/v1/calls", json=body, headers=headers) as answer:
                sid = (await answer.json())["sid"] if answer.status == 201 else None
        except (aiohttp.ClientError, TimeoutError):
            sid = None
        if sid:
            self.run.placed[sid] = began
        else:
            self.run.failed += 1

    async def finish(self) -> None:
        """Waits until all calls are finished, for at most `patience_s`."""
        await self._wait_while(lambda: self.run.unfinished > 0)

    async def _wait_while(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.patience_s
        while condition() and time.monotonic() < deadline:
            await asyncio.sleep(RECORD_EVERY_S)

    async def record_prices_and_deliveries(self) -> None:
        """Records when prices and deliveries appear, until the task is canceled."""
        taken = 0
        while True:
            await asyncio.sleep(RECORD_EVERY_S)
            found = await self.database.execute("SELECT sid FROM call WHERE price IS NOT NULL")
            now = time.time()
            for (sid,) in await found.fetchall():
                self.run.priced.setdefault(sid, now)
            for one in self.receiver.received[taken:]:
                if one.is_signed:
                    self.run.delivered.setdefault(one.call_sid, {}).setdefault(one.call_status, one.at)
            taken = len(self.receiver.received)

    async def _requests(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for tenant in self.service.tenants:
            total += Counter(await self._get("/_simulator/requests", account_sid=tenant.account_sid))
        return total

    async def _callbacks(self, after: int) -> Any:
        return await self._get("/_simulator/callbacks", after=str(after))

    def _time_callbacks(self, sent: Sequence[Mapping[str, Any]]) -> None:
        for one in sent:
            if not one["attempts"] or one["call_sid"] not in self.run.placed:
                continue  # it still waits in the simulator, or belongs to another service
            first, last = one["attempts"][0], one["attempts"][-1]
            sent_at = datetime.fromisoformat(first["sent_at"]).timestamp()
            if last["answered_at"]:
                self.run.callback_s.append(datetime.fromisoformat(last["answered_at"]).timestamp() - sent_at)
            delivered_at = self.run.delivered.get(one["call_sid"], {}).get(one["call_status"])
            if delivered_at:
                self.run.delivery_s.append(delivered_at - sent_at)

    async def _time_prices(self) -> None:
        for tenant in self.service.tenants:
            page: str | None = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json?PageSize=1000"
            while page:
                answer = await self._get(page, auth=aiohttp.BasicAuth(tenant.account_sid, tenant.auth_token))
                for call in answer["calls"]:
                    if call["sid"] in self.run.placed and call["sid"] in self.run.priced:
                        shown_at = parsedate_to_datetime(call["end_time"]).timestamp() + PRICE_DELAY_S
                        self.run.price_s.append(self.run.priced[call["sid"]] - shown_at)
                page = answer["next_page_uri"]

    async def _get(self, path: str, auth: aiohttp.BasicAuth | None = None, **query: str) -> Any:
        async with self.http.get(f"{self.twilio}{path}", params=query, auth=auth) as answer:
            answer.raise_for_status()
            return await answer.json()


async def measure(services: Sequence[Service], runs: Sequence[Sequence[Run]], twilio: str, *, patience_s: float) -> None:
    """Measures services in turn, for TURN_S each, so that all see the machine at the same speed.

    Writes the results into `runs`, which has for each service one run for each rate, in the same order. The CPU of the
    simulator, of the receivers and of the database sessions that poll for prices is not counted.
    """
    async with AsyncExitStack() as stack:
        runners = [
            await _runner(stack, service, twilio, warm_up=_warm_up_like(of_service[-1]), patience_s=patience_s)
            for service, of_service in zip(services, runs, strict=True)
        ]
        for runner in runners:
            await runner.warm_up()
        at_rest = [runner.cpu_seconds_by_role() for runner in runners]
        await asyncio.sleep(IDLE_S)
        idle = [runner.idle_shares_since(before) for runner, before in zip(runners, at_rest, strict=True)]
        for together in zip(*runs, strict=True):
            for runner, run, share in zip(runners, together, idle, strict=True):
                await runner.begin(run, share)
            turns = max(round(together[0].seconds / TURN_S), 1)
            for _ in range(turns):
                for runner, run in zip(runners, together, strict=True):
                    await runner.take_turn(run.seconds / turns)
            await asyncio.gather(*(runner.finish() for runner in runners))
            for runner in runners:
                await runner.end()


def _warm_up_like(run: Run) -> Run:
    return Run(run.service, run.rate, run.callbacks, WARM_UP_CALLS / run.rate)


async def _runner(stack: AsyncExitStack, service: Service, twilio: str, *, warm_up: Run, patience_s: float) -> Runner:
    """Returns a runner whose first run is `warm_up`. It records prices and deliveries until the stack is closed."""
    receiver = Receiver(secrets={tenant.account_sid: tenant.secret for tenant in service.tenants})
    await stack.enter_async_context(receiving(receiver))
    database = await psycopg.AsyncConnection.connect(service.database, autocommit=True)
    await stack.enter_async_context(database)
    http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)))
    for tenant in service.tenants:
        account = f"{twilio}/_simulator/accounts/{tenant.account_sid}"
        (await http.put(account, json={"auth_token": tenant.auth_token, "api_keys": {}})).raise_for_status()
    runner = Runner(service, twilio, receiver, http, database, patience_s, warm_up)
    stack.callback(asyncio.create_task(runner.record_prices_and_deliveries()).cancel)
    return runner
