"""What the benches of calls share: the subjects over one Postgres and one nginx, and runs of load against them."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from app.local.postgres import EmbeddedPostgres
from bench import load, nginx
from bench.load import Load
from bench.results import Sample, Scenario
from bench.subjects import SUBJECTS, Subject, libpq


@dataclass
class Stage:
    folder: Path
    subjects: list[Subject]
    postgres_version: str
    _numbers: Iterator[int] = field(default_factory=count)

    def calls(self, subject: Subject, scenario: Scenario, seconds: int) -> Sample:
        requests = subject.requests(slow=scenario.upstream_ms > 0, tenants=scenario.tenants)
        # wrk does not wait for what is on its way when time is up; the services finish it.
        patience_s = scenario.upstream_ms / 1000 + 0.2
        return self._measured(subject, scenario, requests, seconds, done=subject.durable_calls, patience_s=patience_s)

    def callbacks(self, subject: Subject, scenario: Scenario, requests: Sequence[bytes], seconds: int) -> Sample:
        return self._measured(subject, scenario, requests, seconds, done=lambda: None, patience_s=0.2)

    def _measured(
        self,
        subject: Subject,
        scenario: Scenario,
        requests: Sequence[bytes],
        seconds: int,
        *,
        done: Callable[[], int | None],
        patience_s: float,
    ) -> Sample:
        before, cpu_before = done(), subject.cpu_seconds()
        seen = self.load(subject, requests, connections=scenario.concurrent, seconds=seconds)
        time.sleep(patience_s)
        cpu, after = subject.cpu_seconds() - cpu_before, done()
        calls = seen.requests if before is None or after is None else after - before
        return Sample(scenario, subject.name, seen, cpu, calls, subject.resident_mib())

    def load(self, subject: Subject, requests: Sequence[bytes], *, connections: int, seconds: int) -> Load:
        path = load.write_requests(self.folder / "requests", requests)
        prefix = f"{next(self._numbers)}-"
        return load.run_load(subject.url, path, prefix=prefix, connections=connections, seconds=seconds)


@contextmanager
def staged(names: Sequence[str]) -> Iterator[Stage]:
    """The named subjects, over a Postgres that is as durable as a real one."""
    if lacks := load.missing() or nginx.missing():
        sys.exit(f"skipped: {lacks}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callgate-bench-")))
        folder.chmod(0o755)  # root's Postgres runs as nobody
        server = stack.enter_context(EmbeddedPostgres(folder, durable=True)).url
        upstream = stack.enter_context(nginx.running_nginx(folder / "nginx"))
        subjects = [stack.enter_context(SUBJECTS[name](server, upstream, folder)) for name in names]
        yield Stage(folder, subjects, _version(server))


def _version(server: str) -> str:
    with psycopg.connect(libpq(server)) as connection:
        major, minor = divmod(connection.info.server_version, 10_000)
    return f"{major}.{minor}"
