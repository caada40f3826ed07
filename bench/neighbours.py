"""Measures how much other clients slow down a tenant that does its normal work: `python -m bench.neighbours`.

The bench runs one API process. Another tenant lists its 3,000 calls without a pause, on several connections, or strangers send
callbacks without a valid signature. Meanwhile the bench times the normal tenant's creations of calls, or genuine callbacks, one
after the other. Compare the ratios within one run, because the absolute numbers depend on the machine.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import psycopg
from twilio.request_validator import RequestValidator
from uuid_utils import uuid7

from app.calls.callback_urls import CALLBACK_PATH, CallbackUrls
from app.security.keyring import Keyring
from bench.connections import Connection, raw_creation_request, raw_request
from bench.nginx import creation_answer
from bench.one_api import Api, run_with_api
from tests.proofs.fleet import ACCOUNT, ENVIRONMENT, TOKEN

LISTED_CALLS = 3000
LIST_CONNECTIONS = 8
MANY_LIST_CONNECTIONS = 12
STRANGERS_PER_S = 178
ROUNDS = 4
PUBLIC_URL = "https://calls.example.com"
UPSTREAM_S = 0.005
LIST_PATHS = {
    "Twilio's list, PageSize=1000": f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json?PageSize=1000",
    "/v1/calls?limit=200": "/v1/calls?limit=200",
}
# Inserts copies of a call. Each copy has an id and a sid of its own, and all that Twilio shows of a completed call.
_COPY_CALL_SQL = """
    INSERT INTO call (id, tenant_id, account_id, created_at, execution, settled_by, settled_at, pending_since, fingerprint,
        parameters, "to", "from", sid, account_sid, status, resource, subresource_uris, direction, duration, price, price_unit)
    SELECT given.id, tenant_id, account_id, created_at, execution, settled_by, settled_at, pending_since, fingerprint,
        parameters, "to", "from", given.sid, account_sid, 'completed', %(resource)s, %(uris)s, 'outbound-api', 12, -0.03, 'USD'
    FROM call, unnest(%(ids)s::uuid[], %(sids)s::text[]) AS given (id, sid) WHERE call.id = %(first)s
"""


@dataclass
class Service:
    api: Api
    keys: dict[str, str]
    calls: list[tuple[UUID, UUID, str]]
    """The calls of the tenant that does its normal work. For each call: its id, the id of its Twilio account, its CallSid."""

    def peak_mib(self) -> float:
        """Returns the API's peak memory in MiB since the last `reset_peak`."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.api.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024

    def reset_peak(self) -> None:
        Path(f"/proc/{self.api.pid}/clear_refs").write_text("5")


async def time_creations(service: Service, seconds: float) -> list[float]:
    one = raw_creation_request(service.keys["well"])
    return await time_requests(service, lambda: one, seconds, expected=201)


async def time_callbacks(service: Service, seconds: float) -> list[float]:
    urls = CallbackUrls(CALLBACK_PATH, Keyring([base64.b64decode(ENVIRONMENT["CALLGATE_SECRET_KEYS"])]))

    def genuine() -> bytes:
        call_id, account_id, sid = service.calls.pop()
        fields = {"AccountSid": ACCOUNT, "CallSid": sid, "CallStatus": "ringing", "SequenceNumber": "1"}
        path = urls.callback_url_of_call(call_id, account_id)
        return callback_request(path, RequestValidator(TOKEN).compute_signature(PUBLIC_URL + path, fields), fields)

    return await time_requests(service, genuine, seconds, expected=204)


def callback_request(path: str, signature: str, fields: dict[str, str]) -> bytes:
    headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"X-Twilio-Signature": signature} if signature else {})
    return raw_request(path, headers, urlencode(fields).encode())


async def time_requests(service: Service, make: Callable[[], bytes], seconds: float, *, expected: int) -> list[float]:
    """Sends the requests that `make` returns, one after the other, for `seconds` seconds. Returns the seconds that each took.

    Exits if the status of an answer is neither `expected` nor 503.
    """
    taken: list[float] = []
    connection = Connection(service.api.port)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 2:
        one = make()
        began = time.perf_counter()
        status, body = await connection.ask(one)
        # An overloaded API refuses some requests. The time until a refusal counts too.
        if status not in (expected, 503):
            raise SystemExit(f"{status} {body[:300]!r}")
        taken.append(time.perf_counter() - began)
    connection.close()
    return taken


@dataclass
class ListCounts:
    pages: int = 0
    refused: int = 0
    largest: int = 0


@asynccontextmanager
async def requesting_list(service: Service, path: str, number: int, seen: ListCounts) -> AsyncIterator[None]:
    """Requests the list at `path` on `number` connections without a pause, until the `async with` block ends.

    Counts the answers in `seen`.
    """
    one = raw_request(path, {"Authorization": f"Bearer {service.keys['lists']}"}, method="GET")

    async def list_on() -> None:
        connection = Connection(service.api.port)
        try:
            while True:
                status, body = await connection.ask(one)
                seen.pages += status == 200
                seen.refused += status != 200
                seen.largest = max(seen.largest, len(body))
        finally:
            connection.close()

    async with running_tasks(*(list_on() for _ in range(number))):
        yield


@asynccontextmanager
async def sending_invalid_callbacks(service: Service, signature: str, query: str) -> AsyncIterator[None]:
    """Sends callbacks without a valid signature for an existing call, until the `async with` block ends.

    Sends STRANGERS_PER_S callbacks per second, without waiting for the answers to earlier ones.
    """
    one = callback_request(f"{CALLBACK_PATH}/{service.calls[0][0]}{query}", signature, {"CallStatus": "completed"})
    idle: list[Connection] = []

    async def send() -> None:
        connection = idle.pop() if idle else Connection(service.api.port)
        status, _ = await connection.ask(one)
        assert status == 403, status
        idle.append(connection)

    async def send_on() -> None:
        began, sent = time.perf_counter(), 0
        async with asyncio.TaskGroup() as group:
            while True:
                while sent < (time.perf_counter() - began) * STRANGERS_PER_S:
                    group.create_task(send())
                    sent += 1
                await asyncio.sleep(0.005)

    async with running_tasks(send_on()):
        yield


@asynccontextmanager
async def running_tasks(*work: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.sleep(0.5)
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


@dataclass
class Comparison:
    """The seconds that each request of a tenant took: `alone`, and `beside` the load of other clients.

    Both are measured in turn, so that other work on the machine slows both.
    """

    name: str
    alone: list[float]
    beside: list[float]

    def show(self, rest: str) -> None:
        for name, taken in (("alone", self.alone), (self.name, self.beside)):
            p50 = statistics.median(taken)
            p99 = statistics.quantiles(taken, n=100, method="inclusive")[98]
            ratio = p50 / statistics.median(self.alone)
            shown = f"  {name:<48} {len(taken):>5} {p50 * 1000:>8.1f} {p99 * 1000:>8.1f} {ratio:>6.2f}"
            print(f"{shown}  {rest if taken is self.beside else ''}".rstrip(), flush=True)


async def compare(
    name: str, work: Callable[[float], Awaitable[list[float]]], others: Callable[[], Any], seconds: float
) -> Comparison:
    found = Comparison(name, [], [])
    for _ in range(ROUNDS):
        found.alone += await work(seconds / ROUNDS)
        async with others():
            found.beside += await work(seconds / ROUNDS)
    return found


async def measure(service: Service, seconds: float) -> None:
    await time_creations(service, 1)
    print(f"  {'creation, milliseconds':<48} {'n':>5} {'p50':>8} {'p99':>8} {'×':>6}")
    for name, path in LIST_PATHS.items():
        seen = ListCounts()
        service.reset_peak()
        found = await compare(
            f"beside {LIST_CONNECTIONS} × {name}",
            lambda duration: time_creations(service, duration),
            partial(requesting_list, service, path, LIST_CONNECTIONS, seen),
            seconds,
        )
        found.show(f"peak {service.peak_mib():.0f} MiB, {seen.refused} refused")
    service.reset_peak()
    seen = ListCounts()
    began = time.perf_counter()
    async with requesting_list(service, LIST_PATHS["Twilio's list, PageSize=1000"], MANY_LIST_CONNECTIONS, seen):
        await asyncio.sleep(seconds)
    rate = seen.pages / (time.perf_counter() - began)
    rest = f"{rate:.1f} pages/s of {seen.largest // 1024} KiB, {seen.refused} refused"
    print(f"  {MANY_LIST_CONNECTIONS} × Twilio's list, PageSize=1000: peak {service.peak_mib():.0f} MiB, {rest}", flush=True)
    print(f"  {'genuine callback, milliseconds':<48} {'n':>5} {'p50':>8} {'p99':>8} {'×':>6}")
    kinds: dict[str, tuple[str, str]] = {
        "unsigned": ("", ""),
        "signed by nobody": ("RSOYDt4T1cUTdK1PDd93/VVr8B8=", f"?tag={'A' * 43}"),
    }
    for name, (signature, query) in kinds.items():
        attack = partial(sending_invalid_callbacks, service, signature, query)
        before, began = service.api.cpu_s(), time.perf_counter()
        async with attack():
            await asyncio.sleep(seconds / 2)
        each = (service.api.cpu_s() - before) / ((time.perf_counter() - began) * STRANGERS_PER_S)
        found = await compare(
            f"beside {STRANGERS_PER_S}/s that are {name}", lambda duration: time_callbacks(service, duration), attack, seconds
        )
        found.show(f"{each * 1000:.2f} ms of CPU each")


def copy_only_call(database: str, tenant: str, number: int) -> list[tuple[UUID, UUID, str]]:
    """Copies the tenant's only call `number` times. Returns the call id, the account id and the CallSid of each copy."""
    answer = creation_answer(ACCOUNT, f"CA{'0' * 32}")
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT id, account_id FROM call WHERE tenant_id = %s LIMIT 1", [tenant]).fetchone()
        assert row
        ids = [UUID(str(uuid7())) for _ in range(number)]
        sids = [f"CA{call_id.hex}" for call_id in ids]
        values = {"ids": ids, "sids": sids, "first": row[0], "resource": json.dumps(answer)}
        connection.execute(_COPY_CALL_SQL, values | {"uris": json.dumps(answer["subresource_uris"])})
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE call")
    return [(call_id, row[1], sid) for call_id, sid in zip(ids, sids, strict=True)]


async def run(api: Api, seconds: float) -> None:
    keys = {name: await api.make_tenant(name) for name in ("lists", "well")}
    for key in keys.values():
        status, body = await Connection(api.port).ask(raw_creation_request(key))
        assert status == 201, body
    copy_only_call(api.database, "lists", LISTED_CALLS)
    await measure(Service(api, keys, copy_only_call(api.database, "well", 50_000)), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of each comparison, each way")
    arguments = parser.parse_args()
    settings = {"CALLGATE_PUBLIC_URL": PUBLIC_URL}
    run_with_api("neighbours", lambda api: run(api, arguments.seconds), upstream_s=UPSTREAM_S, settings=settings)


if __name__ == "__main__":
    main()
