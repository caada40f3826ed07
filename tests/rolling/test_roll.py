"""A rolling restart under load, as Kubernetes does it, causes no errors and no unknown outcomes."""

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
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, SECRET_KEY, Gateway, Tenant
from tests.support.upstream import Behaviour, Upstream, created, running_upstream

CLIENTS = 8
LINGER_S = 4
REQUESTS_PER_STEP = 20  # load before, between and after the restarts


def answering_after(seconds: float) -> Behaviour:
    """Returns a behaviour that creates calls after a delay, so that most clients have a creation in progress at any time."""
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
    async with http_client(base_url=f"http://127.0.0.1:{port}") as http, asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/readyz")).is_success:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def load(url: str, tenant: Tenant) -> AsyncIterator[Counter[str]]:
    """Runs clients that keep their connections and never retry. Yields the number of responses of each kind."""
    answers: Counter[str] = Counter()
    stop = asyncio.Event()

    async def client() -> None:
        headers = {"Authorization": f"Bearer {tenant.key}"}
        async with http_client(base_url=url, headers=headers) as http:
            while not stop.is_set():
                try:
                    answer = await http.post("/v1/calls", json=BASIC_CALL)
                    answers[f"{answer.status_code} {answer.json()['execution']}"] += 1
                except httpx.TransportError as error:
                    answers[type(error).__name__] += 1

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
        try:
            yield answers
        finally:
            stop.set()


async def test_clients_notice_no_restart_of_two_processes(gateway: Gateway, database_url: str, tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    balancer = Balancer(ports)
    async with running_upstream(answering_after(0.05)) as upstream, balancer.running() as url:
        tenant = await gateway.add_tenant(upstream.url)
        with contextlib.ExitStack() as processes:
            old = {port: processes.enter_context(serving(port, database_url, tmp_path)) for port in ports}
            for port in ports:
                await ready(port)
            async with load(url, tenant) as answers:
                for port, process in old.items():
                    await wait_for_more_answers(answers)
                    process.child.send_signal(signal.SIGTERM)
                    await eventually(lambda process=process: "leaving" in process.output, "the start of the shutdown")  # type: ignore[misc]
                    await wait_for_more_answers(answers)  # the load balancer still uses the process
                    balancer.withdraw(port)
                    await eventually(lambda process=process: process.child.poll() is not None, "its end")  # type: ignore[misc]
                    processes.enter_context(serving(port, database_url, tmp_path))
                    await ready(port)
                    balancer.admit(port)
                await wait_for_more_answers(answers)
    assert answers.keys() == {"201 started"}
    async with gateway.database.begin() as session:
        found = await session.execute(text("SELECT execution, settled_by, count(*) FROM call GROUP BY 1, 2"))
    assert [tuple(row) for row in found] == [("started", "response", answers.total())]
    assert len(upstream.posts) == answers.total()


async def wait_for_more_answers(answers: Counter[str]) -> None:
    target = answers.total() + REQUESTS_PER_STEP
    await eventually(lambda: answers.total() >= target, "more answers")
