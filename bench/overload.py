"""Goodput under overload: `python -m bench.overload`. Ratios within one run; the machine's own speed does not matter.

One API process, an upstream that takes 100 ms, clients that arrive by the clock whether or not others were answered.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from tests.proofs.balancer import free_port
from tests.proofs.fleet import ENVIRONMENT, Process, make_tenant, wait_until_up

UPSTREAM_S = 0.1
ROUND_S = 8.0
IN_FLIGHT = 32
BODY = {"to": "sip:kate@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}


@dataclass
class Round:
    rate: float
    created: int = 0
    refused: list[float] = field(default_factory=list)
    other: int = 0
    memory_mib: float = 0.0

    @property
    def goodput(self) -> float:
        return self.created / ROUND_S


class Connections:
    """Just enough of an HTTP client, for one that does more would take the processor from what is measured."""

    def __init__(self, port: int, key: str) -> None:
        body = json.dumps(BODY).encode()
        head = f"POST /v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        self._port = port
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self) -> tuple[int, bytes]:
        """Status and body; the newest idle connection is used, or a new one."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return int(head[9:12]), answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def measure(port: int, key: str, rate: float, process: Process) -> Round:
    """Creations arrive `rate` times a second for a while, each on whatever connection is free."""
    result = Round(rate)
    connections = Connections(port, key)

    async def one() -> None:
        began = time.perf_counter()
        try:
            status, answer = await connections.post()
        except (OSError, asyncio.IncompleteReadError):
            result.other += 1
            return
        if status == 201:
            result.created += 1
        elif b":overloaded" in answer:
            result.refused.append(time.perf_counter() - began)
        else:
            result.other += 1

    began = time.perf_counter()
    arrivals: list[asyncio.Task[None]] = []
    while (passed := time.perf_counter() - began) < ROUND_S:
        while len(arrivals) < passed * rate:
            arrivals.append(asyncio.create_task(one()))
        await asyncio.sleep(0.005)
    result.memory_mib = _resident(process) / 2**20
    await asyncio.gather(*arrivals)
    connections.close()
    return result


def _resident(process: Process) -> int:
    assert process.running
    pages = int(Path(f"/proc/{process.running.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def run(postgres: EmbeddedPostgres, log: Any) -> None:
    port, upstream_port = free_port(), free_port()
    program = [sys.executable, "-m", "bench.upstream", str(upstream_port), str(UPSTREAM_S)]
    upstream = await asyncio.create_subprocess_exec(*program)
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "CALLGATE_DATABASE_URL": postgres.url,
        "CALLGATE_TWILIO_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        "CALLGATE_MAX_IN_FLIGHT": str(IN_FLIGHT),
        "CALLGATE_MAX_IN_FLIGHT_PER_TENANT": str(IN_FLIGHT),
    }
    process = Process(["serve", "--port", str(port)], environment, log)
    await process.start()
    url = f"http://127.0.0.1:{port}"
    try:
        await wait_until_up(url, "/readyz")
        key = await make_tenant(environment, "overload")
        rounds = []
        best = 0.0
        for rate in (20, 40, 60, 80, 100, 130, 160, 200):
            rounds.append(await measure(port, key, rate, process))
            best = max(best, rounds[-1].goodput)
        rounds.append(await measure(port, key, 5 * best, process))
    finally:
        await process.end(signal.SIGKILL)
        upstream.kill()
        await upstream.wait()
    print("| arriving/s | goodput/s | of best | refused | refused, median ms | other | memory MiB |")
    print("|---|---|---|---|---|---|---|")
    for each in rounds:
        median = statistics.median(each.refused) * 1000 if each.refused else 0
        print(
            f"| {each.rate:.0f} | {each.goodput:.1f} | {each.goodput / best:.2f} | {len(each.refused)} | {median:.0f} "
            f"| {each.other} | {each.memory_mib:.0f} |"
        )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="callgate-overload-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with EmbeddedPostgres(folder) as postgres, (folder / "log").open("wb") as log:
            migrate(postgres.url)
            asyncio.run(run(postgres, log))


if __name__ == "__main__":
    main()
