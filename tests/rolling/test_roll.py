"""A rolling restart under load, as Kubernetes does it: nobody notices, and no outcome is unknown for its sake."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from sqlalchemy import text

from tests.cli.running import Process, environment, eventually, free_port, running
from tests.proofs.balancer import Balancer
from tests.support.gateway import BASIC, SECRET_KEY, Gateway, Tenant
from tests.support.upstream import Behaviour, Upstream, created, running_upstream

CLIENTS = 8
LINGER_S = 4
REQUESTS_BETWEEN = 20  # so that there is load before, between and after


def answering_after(seconds: float) -> Behaviour:
    """A Twilio that takes its time, so that at any moment most clients have a creation on its way."""
    answer = created()

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await answer(upstream, reader, writer)

    return behave


@contextmanager
def serving(port: int, database_url: str, folder: Path) -> Iterator[Process]:
    configured = environment(
        folder, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY, CALLGATE_LINGER=str(LINGER_S)
    )
    with running("serve", "--port", str(port), environment=configured, file=folder / f"serve-{port}") as process:
        yield process


async def ready(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/readyz")).is_success:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def load(url: str, tenant: Tenant) -> AsyncIterator[Counter[str]]:
    """Clients that keep their connections and never repeat anything; what they were told is counted."""
    told: Counter[str] = Counter()
    stop = asyncio.Event()

    async def client() -> None:
        headers = {"Authorization": f"Bearer {tenant.key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            while not stop.is_set():
                try:
                    answer = await http.post("/v1/calls", json=BASIC)
                    told[f"{answer.status_code} {answer.json()['execution']}"] += 1
                except httpx.TransportError as error:
                    told[type(error).__name__] += 1

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
        try:
            yield told
        finally:
            stop.set()


async def test_two_processes_are_restarted_one_after_the_other_and_nobody_notices(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    balancer = Balancer(ports)
    async with running_upstream(answering_after(0.05)) as upstream, balancer.running() as url:
        tenant = await gateway.add_tenant(upstream.url)
        with contextlib.ExitStack() as processes:
            old = {port: processes.enter_context(serving(port, database_url, tmp_path)) for port in ports}
            for port in ports:
                await ready(port)
            async with load(url, tenant) as told:
                for port, process in old.items():
                    await more(told)
                    process.popen.send_signal(signal.SIGTERM)
                    await eventually(lambda process=process: "leaving" in process.output, "the process letting go")  # type: ignore[misc]
                    await more(told)  # nobody has told the balancer yet
                    balancer.withdraw(port)
                    await eventually(lambda process=process: process.popen.poll() is not None, "its end")  # type: ignore[misc]
                    processes.enter_context(serving(port, database_url, tmp_path))
                    await ready(port)
                    balancer.admit(port)
                await more(told)
    assert told.keys() == {"201 started"}
    async with gateway.database.begin() as session:
        found = await session.execute(text("SELECT execution, settled_by, count(*) FROM call GROUP BY 1, 2"))
    assert [tuple(row) for row in found] == [("started", "response", told.total())]
    assert len(upstream.posts) == told.total()


async def more(told: Counter[str]) -> None:
    enough = told.total() + REQUESTS_BETWEEN
    await eventually(lambda: told.total() >= enough, "more answers")
