"""Measure what others cost a tenant that does its normal work: `python -m bench.neighbours`.

One API process. Another tenant lists its 3,000 calls without a pause, on several connections; strangers send callbacks that
nobody signed. Meanwhile one creation after the other, or one genuine callback after the other, is timed. Ratios within one
run; the machine's own speed does not matter.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
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

from app.callbacks.router import CALLBACK_PATH
from app.calls.callback_urls import CallbackUrls
from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from app.security.keyring import Keyring
from bench.nginx import ANSWER
from tests.proofs.balancer import free_port
from tests.proofs.fleet import ACCOUNT, ENVIRONMENT, TOKEN, Process, make_tenant, wait_until_up

CALLS = 3000
LISTERS = 8
CROWD = 12
STRANGERS_PER_S = 178
ROUNDS = 4
PUBLIC_URL = "https://calls.example.com"
UPSTREAM_S = 0.005
BODY = {"to": "sip:kate@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}
LISTS = {
    "Twilio's list, PageSize=1000": f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json?PageSize=1000",
    "/v1/calls?limit=200": "/v1/calls?limit=200",
}
# As many of the first call as are wanted, each with an id and a sid of its own and all that Twilio tells of a call.
_COPIES = """
    INSERT INTO call (id, tenant_id, account_id, created_at, execution, settled_by, settled_at, pending_since, fingerprint,
        parameters, "to", "from", sid, account_sid, status, resource, subresource_uris, direction, duration, price, price_unit)
    SELECT given.id, tenant_id, account_id, created_at, execution, settled_by, settled_at, pending_since, fingerprint,
        parameters, "to", "from", given.sid, account_sid, 'completed', %(resource)s, %(uris)s, 'outbound-api', 12, -0.03, 'USD'
    FROM call, unnest(%(ids)s::uuid[], %(sids)s::text[]) AS given (id, sid) WHERE call.id = %(first)s
"""


class Connection:
    """Just enough of an HTTP client, for one that does more would take the processor from what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join([chunk async for chunk in _chunks(reader)])
        else:
            body = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@dataclass
class Service:
    port: int
    pid: int
    keys: dict[str, str]
    calls: list[tuple[UUID, UUID, str]]
    """Of the tenant that does its normal work: id, account's id, sid."""

    def peak_mib(self) -> float:
        """Since the last `forget_peak`."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def creations(service: Service, seconds: float) -> list[float]:
    headers = {"Authorization": f"Bearer {service.keys['well']}", "Content-Type": "application/json"}
    one = request("POST", "/v1/calls", headers, json.dumps(BODY).encode())
    return await timed(service, lambda: one, seconds, expected=201)


async def callbacks(service: Service, seconds: float) -> list[float]:
    urls = CallbackUrls(CALLBACK_PATH, Keyring([base64.b64decode(ENVIRONMENT["CALLGATE_SECRET_KEYS"])]))

    def genuine() -> bytes:
        call_id, account_id, sid = service.calls.pop()
        fields = {"AccountSid": ACCOUNT, "CallSid": sid, "CallStatus": "ringing", "SequenceNumber": "1"}
        path = urls.url_of(call_id, account_id)
        return callback(path, RequestValidator(TOKEN).compute_signature(PUBLIC_URL + path, fields), fields)

    return await timed(service, genuine, seconds, expected=204)


def callback(path: str, signature: str, fields: dict[str, str]) -> bytes:
    headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"X-Twilio-Signature": signature} if signature else {})
    return request("POST", path, headers, urlencode(fields).encode())


async def timed(service: Service, make: Callable[[], bytes], seconds: float, *, expected: int) -> list[float]:
    """Seconds of each request, one after the other."""
    taken: list[float] = []
    connection = Connection(service.port)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 2:
        one = make()
        began = time.perf_counter()
        status, body = await connection.ask(one)
        # A gateway that is kept from its work refuses some: that takes its time, too.
        if status not in (expected, 503):
            raise SystemExit(f"{status} {body[:300]!r}")
        taken.append(time.perf_counter() - began)
    connection.close()
    return taken


@dataclass
class Listing:
    pages: int = 0
    refused: int = 0
    largest: int = 0


@asynccontextmanager
async def listers(service: Service, path: str, number: int, seen: Listing) -> AsyncIterator[None]:
    """So many connections that list without a pause until the end of the block."""
    one = request("GET", path, {"Authorization": f"Bearer {service.keys['lists']}"})

    async def list_on() -> None:
        connection = Connection(service.port)
        try:
            while True:
                status, body = await connection.ask(one)
                seen.pages += status == 200
                seen.refused += status != 200
                seen.largest = max(seen.largest, len(body))
        finally:
            connection.close()

    async with _meanwhile(*(list_on() for _ in range(number))):
        yield


@asynccontextmanager
async def strangers(service: Service, signature: str, query: str) -> AsyncIterator[None]:
    """Callbacks for a call that exists, by the clock, whether or not the earlier ones were answered."""
    one = callback(f"{CALLBACK_PATH}/{service.calls[0][0]}{query}", signature, {"CallStatus": "completed"})
    idle: list[Connection] = []

    async def send() -> None:
        connection = idle.pop() if idle else Connection(service.port)
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

    async with _meanwhile(send_on()):
        yield


@asynccontextmanager
async def _meanwhile(*work: Any) -> AsyncIterator[None]:
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
class Beside:
    """What a tenant's requests take alone and beside others, in turns: the machine may be busy, but with both."""

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
) -> Beside:
    found = Beside(name, [], [])
    for _ in range(ROUNDS):
        found.alone += await work(seconds / ROUNDS)
        async with others():
            found.beside += await work(seconds / ROUNDS)
    return found


async def measure(service: Service, seconds: float) -> None:
    await creations(service, 1)
    print(f"  {'creation, milliseconds':<48} {'n':>5} {'p50':>8} {'p99':>8} {'×':>6}")
    for name, path in LISTS.items():
        seen = Listing()
        service.forget_peak()
        found = await compare(
            f"beside {LISTERS} × {name}",
            lambda duration: creations(service, duration),
            partial(listers, service, path, LISTERS, seen),
            seconds,
        )
        found.show(f"peak {service.peak_mib():.0f} MiB, {seen.refused} refused")
    service.forget_peak()
    seen = Listing()
    began = time.perf_counter()
    async with listers(service, LISTS["Twilio's list, PageSize=1000"], CROWD, seen):
        await asyncio.sleep(seconds)
    rate = seen.pages / (time.perf_counter() - began)
    rest = f"{rate:.1f} pages/s of {seen.largest // 1024} KiB, {seen.refused} refused"
    print(f"  {CROWD} × Twilio's list, PageSize=1000: peak {service.peak_mib():.0f} MiB, {rest}", flush=True)
    print(f"  {'genuine callback, milliseconds':<48} {'n':>5} {'p50':>8} {'p99':>8} {'×':>6}")
    kinds: dict[str, tuple[str, str]] = {
        "unsigned": ("", ""),
        "signed by nobody": ("RSOYDt4T1cUTdK1PDd93/VVr8B8=", f"?tag={'A' * 43}"),
    }
    for name, (signature, query) in kinds.items():
        attack = partial(strangers, service, signature, query)
        before, began = service.cpu_s(), time.perf_counter()
        async with attack():
            await asyncio.sleep(seconds / 2)
        each = (service.cpu_s() - before) / ((time.perf_counter() - began) * STRANGERS_PER_S)
        found = await compare(
            f"beside {STRANGERS_PER_S}/s that are {name}", lambda duration: callbacks(service, duration), attack, seconds
        )
        found.show(f"{each * 1000:.2f} ms of CPU each")


def seed(database: str, tenant: str, number: int) -> list[tuple[UUID, UUID, str]]:
    """Copies of the one call that the tenant has."""
    answer = json.loads(ANSWER.replace("$calls", f"/2010-04-01/Accounts/{ACCOUNT}/Calls").replace("$account", ACCOUNT))
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT id, account_id FROM call WHERE tenant_id = %s LIMIT 1", [tenant]).fetchone()
        assert row
        ids = [UUID(str(uuid7())) for _ in range(number)]
        sids = [f"CA{call_id.hex}" for call_id in ids]
        values = {"ids": ids, "sids": sids, "first": row[0], "resource": json.dumps(answer)}
        connection.execute(_COPIES, values | {"uris": json.dumps(answer["subresource_uris"])})
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE call")
    return [(call_id, row[1], sid) for call_id, sid in zip(ids, sids, strict=True)]


async def run(postgres: EmbeddedPostgres, log: Any, measure: Callable[[Service], Awaitable[None]]) -> None:
    port, upstream_port = free_port(), free_port()
    program = [sys.executable, "-m", "bench.upstream", str(upstream_port), str(UPSTREAM_S)]
    upstream = await asyncio.create_subprocess_exec(*program)
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "CALLGATE_DATABASE_URL": postgres.url,
        "CALLGATE_TWILIO_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "CALLGATE_PUBLIC_URL": PUBLIC_URL,
    }
    process = Process(["serve", "--port", str(port)], environment, log)
    await process.start()
    try:
        await wait_until_up(f"http://127.0.0.1:{port}", "/readyz")
        keys = {name: await make_tenant(environment, name) for name in ("lists", "well")}
        for key in keys.values():
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            status, body = await Connection(port).ask(request("POST", "/v1/calls", headers, json.dumps(BODY).encode()))
            assert status == 201, body
        database = postgres.url.replace("+asyncpg", "")
        seed(database, "lists", CALLS)
        assert process.running
        await measure(Service(port, process.running.pid, keys, seed(database, "well", 50_000)))
    finally:
        await process.end(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            upstream.kill()
        await upstream.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="of each comparison, each way")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callgate-neighbours-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's Postgres runs as nobody
        with EmbeddedPostgres(folder) as postgres, (folder / "callgate.log").open("wb") as log:
            migrate(postgres.url)
            try:
                asyncio.run(run(postgres, log, lambda service: measure(service, asked.seconds)))
            except BaseException:
                print((folder / "callgate.log").read_text()[-3000:], file=sys.stderr)
                raise


if __name__ == "__main__":
    main()
