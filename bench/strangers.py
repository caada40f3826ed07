"""What clients without a key cost everybody else: `python -m bench.strangers`. Half a minute, on loopback only.

One API process and an upstream that takes 100 ms. Compare the figures of two versions by their runs on one machine.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from bench.overload import Connections, _resident
from tests.proofs.balancer import free_port
from tests.proofs.fleet import ENVIRONMENT, Process, make_tenant, wait_until_up

UPSTREAM_S = 0.1
REQUESTS = 200
STRANGERS = 200
SILENT = 300
SILENCE_S = 12.0
HEADER_LINES = 1_400_000  # 8 MB


async def connect(port: int, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    return reader, writer


def cpu_s(process: Process) -> float:
    assert process.running
    fields = Path(f"/proc/{process.running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def cost_of(port: int, path: str, process: Process) -> float:
    """Milliseconds of the processor for one GET, over one connection."""
    async with AsyncExitStack() as stack:
        reader, writer = await connect(port, stack)
        before = 0.0
        for number in range(REQUESTS + 1):
            if number == 1:  # the first may have something to prepare
                before = cpu_s(process)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        return (cpu_s(process) - before) / REQUESTS * 1000


async def creations(port: int, key: str, count: int = 20) -> tuple[int, float]:
    """How many of them were placed, and the median of their milliseconds."""
    connections = Connections(port, key)
    placed, times = 0, []
    for _ in range(count):
        began = time.perf_counter()
        status, _ = await connections.post()
        placed += status == 201
        times.append((time.perf_counter() - began) * 1000)
    connections.close()
    return placed, statistics.median(times)


async def beside_slow_bodies(port: int, key: str) -> tuple[int, float]:
    async with AsyncExitStack() as stack:
        for _ in range(STRANGERS):
            _, writer = await connect(port, stack)
            lines = ["POST /v1/calls HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 99"]
            writer.write("\r\n".join([*lines, f"Authorization: Bearer {key}", "", "{"]).encode())
        await asyncio.sleep(0.5)
        return await creations(port, key)


async def silent_and_open(port: int) -> int:
    """How many connections that say nothing are still there after a while."""
    async with AsyncExitStack() as stack:
        readers = [(await connect(port, stack))[0] for _ in range(SILENT)]
        await asyncio.sleep(SILENCE_S)
        return sum(not reader.at_eof() for reader in readers)


async def memory_of_a_head(port: int, process: Process) -> float:
    """MiB that header lines without an end add."""
    before = _resident(process)
    async with AsyncExitStack() as stack:
        _, writer = await connect(port, stack)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        try:
            for _ in range(HEADER_LINES // 1000):
                writer.write(b"A: b\r\n" * 1000)
                await writer.drain()
        except ConnectionError:
            pass  # it was refused
        await asyncio.sleep(0.5)
        return (_resident(process) - before) / 2**20


async def run(postgres: EmbeddedPostgres, log: Any) -> None:
    port, upstream_port = free_port(), free_port()
    upstream = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.upstream", str(upstream_port), str(UPSTREAM_S))
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "CALLGATE_DATABASE_URL": postgres.url,
        "CALLGATE_TWILIO_BASE_URL": f"http://127.0.0.1:{upstream_port}",
    }
    process = Process(["serve", "--port", str(port)], environment, log)
    await process.start()
    try:
        await wait_until_up(f"http://127.0.0.1:{port}", "/readyz")
        key = await make_tenant(environment, "strangers")
        for path in ("/livez", "/openapi.json", "/metrics", "/docs/operations"):
            print(f"GET {path}: {await cost_of(port, path, process):.2f} ms of CPU")
        print("20 creations, alone: {} placed, median {:.0f} ms".format(*await creations(port, key)))
        print("20 creations, beside 200 slow bodies: {} placed, median {:.0f} ms".format(*await beside_slow_bodies(port, key)))
        print(f"{SILENT} silent connections: {await silent_and_open(port)} open after {SILENCE_S:.0f} s")
        print(f"8 MB of header lines: {await memory_of_a_head(port, process):+.0f} MiB")
    finally:
        await process.end(signal.SIGKILL)
        upstream.kill()
        await upstream.wait()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="callgate-strangers-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedPostgres(folder) as postgres, (folder / "log").open("wb") as log:
            migrate(postgres.url)
            asyncio.run(run(postgres, log))


if __name__ == "__main__":
    main()
