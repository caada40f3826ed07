"""The calls of tests.proofs.paced: callers that schedule calls, place some at once, and cancel some of them at random."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from app.local.postgres import EmbeddedPostgres
from tests.proofs.chaos import FINAL, SHUFFLED
from tests.proofs.disturbances import CreationNumbers, acknowledge_before_flush
from tests.proofs.fleet import (
    ACCOUNT,
    TOKEN,
    Fleet,
    all_records,
    command,
    make_key,
    make_tenant,
    running_fleet,
    set_pace,
    wait_until_up,
)
from tests.proofs.slot_log import watch_slots
from tests.support.clients import http_client

TENANT = "paced"
ACCOUNTS = {ACCOUNT: (6, 3, 14), "AC" + "b" * 32: (4, 2, 10)}
"""For each account: calls per second, burst, and the limit of concurrent calls."""
QUEUES = {"fast": (5, 4, None), "slow": (1.5, 1, None), "narrow": (None, 2, 3)}
CALLERS = 3
USERS = ["kate", "kate", "kate", "kate", "busy", "no-answer", "failed"]
# Faster than the accounts dial, so that calls wait.
ARRIVALS_PER_SECOND = 12.0
CLIENT_TIMEOUTS = (0.2, 1.0, 5.0)
MAX_PACED = 4
PATIENCE_S = 300.0
ENDED = {"completed", "busy", "failed", "no-answer", "canceled"}
SETTINGS = {
    "CALLGATE_RESOLVE_SEARCHES": "4",
    "CALLGATE_RESOLVE_PERIOD": "12",
    "CALLGATE_REFRESH_INTERVAL": "1",
    "CALLGATE_WORKER_POLL_INTERVAL": "0.2",
}


@dataclass
class Paced:
    fleet: Fleet
    seed: int
    clients: list[httpx.AsyncClient] = field(default_factory=list)
    """One client for each caller."""
    answers: Counter[str] = field(default_factory=Counter)
    """The number of creations by final answer, such as `201 started`."""
    canceled: set[str] = field(default_factory=set)
    """The ids of calls that were canceled before they were dialled, according to an answer."""
    refused: set[str] = field(default_factory=set)
    """The addresses for which every request was refused with the problem `paced`."""
    placed: int = 0
    errors: int = 0
    """The number of answers with status 500."""

    async def make_faulty(self, share: float) -> None:
        callbacks = SHUFFLED | {"lose": 0.05, "seed": self.seed}
        await self.fleet.tell_simulator(faults={"share": share, "seed": self.seed}, callbacks=callbacks)


@asynccontextmanager
async def running_paced(postgres: EmbeddedPostgres, folder: Path, seed: int) -> AsyncIterator[Paced]:
    await acknowledge_before_flush(postgres)
    await watch_slots(postgres)
    async with running_fleet(postgres, folder, SETTINGS, speed=10, workers=4) as fleet, contextlib.AsyncExitStack() as clients:
        paced = Paced(fleet, seed)
        keys = [await make_tenant(fleet.environment, TENANT)]
        keys += [await make_key(fleet.environment, TENANT) for _ in range(CALLERS - 1)]
        for key in keys:
            client = http_client(base_url=fleet.gateway_url, headers={"Authorization": f"Bearer {key}"})
            paced.clients.append(await clients.enter_async_context(client))
        for account in ACCOUNTS:
            await add_account(fleet, account)
        for name, (rate, burst, concurrent) in QUEUES.items():
            pace = {"calls_per_second": rate, "max_concurrent": concurrent} | ({"burst": burst} if rate else {})
            (await paced.clients[0].put(f"/v1/queues/{name}", json={"pace": pace})).raise_for_status()
        yield paced


async def add_account(fleet: Fleet, account: str) -> None:
    """Sets the account's pace and limit of concurrent calls. Sets this limit in the simulator too, which then enforces it."""
    rate, burst, concurrent = ACCOUNTS[account]
    if account != ACCOUNT:
        environment = fleet.environment | {"TWILIO_AUTH_TOKEN": TOKEN}
        await command(environment, "accounts", "add", TENANT, "--account-sid", account)
        await fleet.tell_simulator(**{f"accounts/{account}": {"auth_token": TOKEN, "api_keys": {}}})
    await set_pace(fleet.environment, TENANT, account, calls_per_second=rate, burst=burst, max_concurrent=concurrent)
    await fleet.tell_simulator(**{f"accounts/{account}/limits": {"max_concurrent": concurrent}})


def basic_body(to: str, account: str) -> dict[str, Any]:
    """Returns the body of a creation. All bodies have the same `timeout` and `time_limit`, which decide when a slot ends."""
    url = "http://www.example.com/sipdial.xml"
    return {"to": to, "from": "Jack", "url": url, "account_sid": account, "timeout": 20, "time_limit": 60}


def body_of(number: int, choice: random.Random) -> dict[str, Any]:
    body = basic_body(f"sip:{choice.choice(USERS)}@{number}.example.com", choice.choice(sorted(ACCOUNTS)))
    now, kind = datetime.now(UTC), choice.random()
    if kind < 0.15:
        return body
    body |= {"priority": choice.choice(["urgent", "normal", "normal", "bulk"])}
    body |= {"queue": queue} if (queue := choice.choice([None, None, *QUEUES])) else {}
    if kind < 0.45:
        return body | {"ring_by": _later(now, choice.uniform(2, 8))}
    if kind < 0.48:
        return body | {"not_before": _later(now, 86_400)}
    if kind < 0.65:
        body |= {"not_before": _later(now, choice.uniform(0.5, 8))}
    return body | {"ring_by": _later(now, choice.uniform(30, 60))}


def _later(now: datetime, seconds: float) -> str:
    return (now + timedelta(seconds=seconds)).isoformat()


async def place(paced: Paced, number: int, canceling: asyncio.TaskGroup) -> None:
    """Creates one call as a client that repeats the request under its key until it has an answer. May cancel the call."""
    choice = random.Random(f"{paced.seed}/{number}")
    client, body = choice.choice(paced.clients), body_of(number, choice)
    final, refusals, lost = "never answered", 0, 0
    for _ in range(200):
        try:
            timeout = choice.choice(CLIENT_TIMEOUTS)
            response = await client.post("/v1/calls", json=body, headers={"Idempotency-Key": f"p{number}"}, timeout=timeout)
        except httpx.HTTPError:
            lost += 1
        else:
            answer = response.json()
            paced.errors += response.status_code == 500
            problem = answer.get("type", "").rpartition(":")[2]
            refusals += problem == "paced"
            if response.status_code < 500 and problem != "call-pending":
                final = f"{response.status_code} {problem or answer['execution']}"
                if choice.random() < 0.3 and answer.get("execution") == "scheduled":
                    canceling.create_task(cancel(paced, client, answer["id"], choice))
                break
            if refusals >= MAX_PACED:
                final = "503 paced"
                if not lost:
                    paced.refused.add(body["to"])
                break
        await asyncio.sleep(choice.uniform(0.05, 0.5))
    paced.answers[final] += 1
    paced.placed += 1


async def cancel(paced: Paced, client: httpx.AsyncClient, call_id: str, choice: random.Random) -> None:
    await asyncio.sleep(choice.uniform(0, 4))
    for _ in range(60):
        with contextlib.suppress(httpx.HTTPError):
            timeout = choice.choice(CLIENT_TIMEOUTS)
            response = await client.patch(f"/v1/calls/{call_id}", json={"status": "canceled"}, timeout=timeout)
            paced.errors += response.status_code == 500
            if response.status_code < 500:
                if response.status_code == 200 and response.json()["settled_by"] == "canceled":
                    paced.canceled.add(call_id)
                return
        await asyncio.sleep(choice.uniform(0.05, 0.5))


async def place_all(paced: Paced, numbers: CreationNumbers, *, clients: int) -> None:
    """Creates calls at a steady rate, and returns when each creation and each cancellation has its answer."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as canceling:

        async def client() -> None:
            async for number in numbers:
                await asyncio.sleep(began + number / ARRIVALS_PER_SECOND - time.monotonic())
                await place(paced, number, canceling)

        await asyncio.gather(*(client() for _ in range(clients)))


async def end(paced: Paced) -> list[dict[str, Any]]:
    """Waits until every call has ended or is scheduled for tomorrow. Then places and awaits one more call on each account.

    These last calls free the slots of earlier calls. Returns all records.
    """
    await wait_until_up(paced.fleet.gateway_url, "/readyz")
    await wait_until_over(paced)
    await paced.fleet.tell_simulator(faults={"share": 0})
    for account in ACCOUNTS:
        last = basic_body(f"sip:last@{account}.example.com", account) | {"priority": "urgent"}
        (await paced.clients[0].post("/v1/calls", json=last)).raise_for_status()
    return await wait_until_over(paced)


async def wait_until_over(paced: Paced) -> list[dict[str, Any]]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        records = await all_records(paced.clients[0])
        going = [record for record in records if not is_over(record)]
        print(f"\r{len(records)} records, {len(going)} not over yet   ", end="", flush=True)
        if not going or time.monotonic() > deadline:
            print()
            return records
        await asyncio.sleep(2)


def is_over(record: dict[str, Any]) -> bool:
    if record["execution"] == "started":
        return record["status"] in ENDED
    return record["execution"] in FINAL or waits_for_tomorrow(record)


def waits_for_tomorrow(record: dict[str, Any]) -> bool:
    not_before = record["parameters"].get("not_before")
    is_later = not_before is not None and datetime.fromisoformat(not_before) > datetime.now(UTC) + timedelta(hours=12)
    return record["execution"] == "scheduled" and is_later
