"""What a call costs, side by side: `python -m bench.calls`. Ratios within one run; the machine's own speed does not matter.

Callgate, two services as a team would write them by hand (bench/competitors), FastAPI alone, and no service at all, in turn,
several rounds. The upstream is nginx, the load comes from wrk, and every subject commits twice a call to one Postgres, so the
processor time of the service's own process is what is compared; throughput suffers from whatever else runs on the machine.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.local.postgres import EmbeddedPostgres
from bench import load, nginx
from bench.processes import cpu_seconds, resident_mib
from bench.results import Sample, Scenario, print_summary
from bench.subjects import SUBJECTS, Subject

SCENARIOS = [
    Scenario(concurrent=1, upstream_ms=0, tenants=1),
    Scenario(concurrent=32, upstream_ms=0, tenants=1),
    Scenario(concurrent=200, upstream_ms=0, tenants=1),
    Scenario(concurrent=32, upstream_ms=0, tenants=100),
    Scenario(concurrent=1, upstream_ms=nginx.SLOW_MS, tenants=1),
    Scenario(concurrent=32, upstream_ms=nginx.SLOW_MS, tenants=1),
    Scenario(concurrent=200, upstream_ms=nginx.SLOW_MS, tenants=1),
    Scenario(concurrent=200, upstream_ms=nginx.SLOW_MS, tenants=100),
]
HEADLINE = SCENARIOS[1]


@contextmanager
def running_subjects(names: Sequence[str], folder: Path) -> Iterator[list[Subject]]:
    """All of them over one Postgres that is as durable as a real one."""
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(folder, durable=True)).url
        upstream = stack.enter_context(nginx.running_nginx(folder / "nginx"))
        yield [stack.enter_context(SUBJECTS[name](server, upstream, folder)) for name in names]


class Runner:
    """Runs of one subject in one scenario."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._runs = 0

    def run(self, subject: Subject, scenario: Scenario) -> Sample:
        self._runs += 1
        requests = load.write_requests(
            self._folder / "requests", subject.requests(slow=scenario.upstream_ms > 0, tenants=scenario.tenants)
        )
        calls = subject.durable_calls()
        cpu = cpu_seconds(subject.pid) if subject.pid else 0.0
        seen = load.run_load(
            subject.url, requests, prefix=f"{self._runs}-", connections=scenario.concurrent, seconds=self._seconds
        )
        time.sleep(scenario.upstream_ms / 1000 + 0.2)  # for what wrk no longer waited for
        cpu = cpu_seconds(subject.pid) - cpu if subject.pid else 0.0
        done = seen.requests if calls is None else (subject.durable_calls() or 0) - calls
        return Sample(scenario, subject.name, seen, cpu, done, resident_mib(subject.pid) if subject.pid else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of one subject in one scenario of one round")
    parser.add_argument("--quick", action="store_true", help="one scenario: 32 concurrent, upstream at once")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    asked = parser.parse_args()
    if lacks := load.missing() or nginx.missing():
        sys.exit(f"skipped: {lacks}")
    scenarios = [HEADLINE] if asked.quick else SCENARIOS
    samples = []
    with tempfile.TemporaryDirectory(prefix="callgate-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's Postgres runs as nobody
        with running_subjects(asked.subjects, folder) as subjects:
            runner = Runner(folder, asked.seconds)
            for subject in subjects:
                runner.run(subject, HEADLINE)  # warm
            for scenario in scenarios:
                for _ in range(asked.rounds):
                    samples += [runner.run(subject, scenario) for subject in subjects]
                print_summary(scenario, samples)


if __name__ == "__main__":
    main()
