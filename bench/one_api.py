"""Runs a bench against one API process, with a Postgres and a stand-in for Twilio that answers after a fixed time."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from bench import processes
from bench.subjects import libpq_url
from tests.proofs.balancer import free_port
from tests.proofs.fleet import ENVIRONMENT, Process, make_tenant, wait_until_up


@dataclass(frozen=True)
class Api:
    port: int
    pid: int
    environment: dict[str, str]
    database: str
    """The URL of the API's database, as libpq and psycopg accept it (`postgresql://…`)."""

    async def make_tenant(self, name: str) -> str:
        """Creates a tenant with a Twilio account and an API key, and returns the key."""
        return await make_tenant(self.environment, name)

    def cpu_s(self) -> float:
        return processes.cpu_seconds(self.pid)

    def resident_mib(self) -> float:
        return processes.resident_mib(self.pid)


def run_with_api(
    name: str, work: Callable[[Api], Awaitable[None]], *, upstream_s: float, settings: Mapping[str, str] | None = None
) -> None:
    """Runs `work` with one API process, a new Postgres and a stand-in for Twilio that answers after `upstream_s` seconds.

    `settings` are environment variables of the API. If `work` fails, prints the end of the API's log.
    """
    with tempfile.TemporaryDirectory(prefix=f"callgate-{name}-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # root's Postgres runs as the user nobody
        path = folder / "callgate.log"
        with EmbeddedPostgres(folder) as postgres, path.open("wb") as log:
            migrate(postgres.url)

            async def run() -> None:
                async with _running_api(postgres.url, log, upstream_s, settings or {}) as api:
                    await work(api)

            try:
                asyncio.run(run())
            except BaseException:
                print(path.read_text()[-3000:], file=sys.stderr)
                raise


@asynccontextmanager
async def _running_api(database: str, log: IO[bytes], upstream_s: float, settings: Mapping[str, str]) -> AsyncIterator[Api]:
    port, upstream_port = free_port(), free_port()
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.upstream", str(upstream_port), str(upstream_s), stderr=log
    )
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "CALLGATE_DATABASE_URL": database,
        "CALLGATE_TWILIO_BASE_URL": f"http://127.0.0.1:{upstream_port}",
        **settings,
    }
    process = Process(["serve", "--port", str(port)], environment, log)
    await process.start()
    assert process.running
    try:
        await wait_until_up(f"http://127.0.0.1:{port}", "/readyz")
        yield Api(port, process.running.pid, environment, libpq_url(database))
    finally:
        await process.end(signal.SIGKILL)
        with suppress(ProcessLookupError):
            upstream.kill()
        await upstream.wait()
