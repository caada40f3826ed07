"""Measures what the simulator of Twilio costs: `python -m bench.simulator`. The simulator must not limit the other benches.

The bench creates calls at a steady rate: first without callbacks, and then with four callbacks each, which a trivial receiver
answers. Then it fetches every call, and lists pages of 1000 calls. The processor time of the bench's own process, which creates
the calls and receives the callbacks, is not counted.
"""

import argparse
import asyncio
import base64
import json
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from bench.life_run import EVENTS
from bench.life_services import SPEED
from bench.processes import cpu_seconds, missing_requirement
from bench.report import describe_run, markdown_table
from bench.subjects import running_process
from tests.proofs.balancer import free_port

ACCOUNTS = 40
CONNECTIONS = 8
PAGE_SIZE, PAGES = 1000, 10
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Client:
    """A client of the simulator, with CONNECTIONS connections that are kept open."""

    url: str
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=asyncio.Queue)

    async def connect(self) -> None:
        address = urlsplit(self.url)
        for _ in range(CONNECTIONS):
            self.idle.put_nowait(await asyncio.open_connection(address.hostname, address.port, limit=2**24))

    async def request(self, method: str, account: str, path: str, form: bytes = b"") -> bytes:
        """Sends a request and returns the body of the answer. Exits if the status is neither 200 nor 201."""
        basic = base64.b64encode(f"{account}:token".encode()).decode()
        head = f"{method} /2010-04-01/Accounts/{account}/{path} HTTP/1.1\r\nHost: simulator\r\nAuthorization: Basic {basic}\r\n"
        head += f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n\r\n"
        reader, writer = await self.idle.get()
        writer.write(head.encode() + form)
        answer = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        self.idle.put_nowait((reader, writer))
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise SystemExit(answer.decode() + body.decode())
        return body


class Receiver(asyncio.Protocol):
    """Answers 204 to every request, and counts them."""

    received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(rest) < length:
                return
            self._data = rest[length:]
            Receiver.received += 1
            self._transport.write(NO_CONTENT)


@asynccontextmanager
async def receiving() -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/status"
    server.close()


@dataclass
class Bench:
    client: Client
    receiver: str
    pid: int
    calls: int
    rate: float
    sids: dict[int, str] = field(default_factory=dict)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    async def measure(self) -> None:
        await self._measure_cost("creation without callbacks", self.calls, self._run_at_rate(self._create))
        await self._measure_cost("creation and four callbacks", self.calls, self._create_with_callbacks())
        await self._measure_cost("fetch", self.calls, self._run_at_rate(self._fetch))
        pages = [self.client.request("GET", _account_sid(-1), f"Calls.json?PageSize={PAGE_SIZE}") for _ in range(PAGES)]
        for n in range(PAGE_SIZE):
            await self._create(n, account=_account_sid(-1))
        await self._measure_cost(f"page of {PAGE_SIZE} calls", PAGES, _in_turn(pages))

    async def _measure_cost(self, name: str, number: int, work: Awaitable[None]) -> None:
        cpu, began = cpu_seconds(self.pid), time.monotonic()
        await work
        used, took = cpu_seconds(self.pid) - cpu, time.monotonic() - began
        self.rows.append((name, str(number), f"{used / number * 1000:.2f} ms", f"{number / took:.0f}", f"{used / took:.0%}"))

    async def _run_at_rate(self, one: Callable[[int], Coroutine[None, None, object]]) -> None:
        """Runs `one` for the number of each call. Starts `rate` runs a second, and does not wait for earlier runs."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for n in range(self.calls):
                await asyncio.sleep(max(0, began + n / self.rate - time.monotonic()))
                tasks.create_task(one(n))

    async def _create_with_callbacks(self) -> None:
        await self._run_at_rate(partial(self._create, callbacks=True))
        while Receiver.received < len(EVENTS) * self.calls:
            await asyncio.sleep(0.05)

    async def _create(self, n: int, *, account: str | None = None, callbacks: bool = False) -> None:
        form: dict[str, object] = {"To": f"sip:kate@{n}.example.com", "From": "Jack", "Url": "http://www.example.com/x"}
        if callbacks:
            form |= {"StatusCallback": self.receiver, "StatusCallbackEvent": EVENTS}
        body = await self.client.request("POST", account or _account_sid(n), "Calls.json", urlencode(form, doseq=True).encode())
        self.sids[n] = json.loads(body)["sid"]

    async def _fetch(self, n: int) -> None:
        await self.client.request("GET", _account_sid(n), f"Calls/{self.sids[n]}.json")


async def _in_turn(all_: Sequence[Awaitable[object]]) -> None:
    for one in all_:
        await one


def _account_sid(n: int) -> str:
    return f"AC{n % ACCOUNTS if n >= 0 else ACCOUNTS:032x}"


async def run(url: str, pid: int, calls: int, rate: float) -> list[tuple[str, ...]]:
    client = Client(url)
    await client.connect()
    async with receiving() as receiver:
        bench = Bench(client, receiver, pid, calls, rate)
        await bench.measure()
    return bench.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200, help="calls a second")
    asked = parser.parse_args()
    if lack := missing_requirement():
        raise SystemExit(f"Skipped: {lack}")
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "simulator", "--port", str(port), "--speed", str(SPEED)]
    with (
        tempfile.TemporaryDirectory(prefix="callgate-simulator-") as folder,
        running_process(command, {}, port, Path(folder) / "simulator.log") as pid,
    ):
        rows = asyncio.run(run(f"http://127.0.0.1:{port}", pid, asked.calls, asked.rate))
    print(f"{describe_run()}. `{shlex.join(['python', '-m', 'bench.simulator', *sys.argv[1:]])}`\n")
    print(markdown_table(("", "number", "CPU each", "a second", "of a processor"), rows))


if __name__ == "__main__":
    main()
