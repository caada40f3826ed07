"""Runs the measured services (subjects) over one Postgres and one nginx in place of Twilio, and puts them under load."""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from app.local.postgres import EmbeddedPostgres
from bench import load, nginx, processes
from bench.load import Load
from bench.results import Sample, Scenario
from bench.subjects import SUBJECTS, Subject, libpq_url


@dataclass
class Stage:
    folder: Path
    subjects: list[Subject]
    postgres_version: str
    _numbers: Iterator[int] = field(default_factory=count)

    def measure_calls(self, subject: Subject, scenario: Scenario, seconds: int) -> Sample:
        requests = subject.creation_requests(slow=scenario.upstream_ms > 0, tenants=scenario.tenants)
        before = subject.count_committed_calls()
        seen, cpu_s = self._measure(subject, requests, scenario, seconds)
        after = subject.count_committed_calls()
        calls = seen.requests if before is None or after is None else after - before
        return Sample(scenario, subject.name, seen, cpu_s, calls, subject.resident_mib())

    def measure_callbacks(self, subject: Subject, scenario: Scenario, requests: Sequence[bytes], seconds: int) -> Sample:
        seen, cpu_s = self._measure(subject, requests, scenario, seconds)
        return Sample(scenario, subject.name, seen, cpu_s, seen.requests, subject.resident_mib())

    def _measure(self, subject: Subject, requests: Sequence[bytes], scenario: Scenario, seconds: int) -> tuple[Load, float]:
        """Puts one service under load with wrk. Returns wrk's results, and the seconds of processor time that the service used.

        This time includes requests that the service finishes after wrk has stopped.
        """
        path = load.write_requests(self.folder / "requests", requests)
        prefix = f"{next(self._numbers)}-"
        before = subject.cpu_seconds()
        seen = load.run_load(subject.url, path, prefix=prefix, connections=scenario.concurrent, seconds=seconds)
        time.sleep(scenario.upstream_ms / 1000)
        subject.wait_until_idle()
        return seen, subject.cpu_seconds() - before


@contextmanager
def running_stage(names: Sequence[str]) -> Iterator[Stage]:
    """Starts the named services over a Postgres with fsync and an nginx in place of Twilio. Exits if a program is missing."""
    if lacks := [lack for part in (load, nginx, processes) if (lack := part.missing_requirement())]:
        print(f"Skipped: {'; '.join(lacks)}")
        sys.exit()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callgate-bench-")))
        folder.chmod(0o755)  # root's Postgres runs as the user nobody
        server = stack.enter_context(EmbeddedPostgres(folder, durable=True)).url
        upstream = stack.enter_context(nginx.running_nginx(folder / "nginx"))
        subjects = [stack.enter_context(SUBJECTS[name](server, upstream, folder)) for name in names]
        yield Stage(folder, subjects, _postgres_version(server))


def _postgres_version(server: str) -> str:
    with psycopg.connect(libpq_url(server)) as connection:
        major, minor = divmod(connection.info.server_version, 10_000)
    return f"{major}.{minor}"
