"""Runs `callgate` in a process with its own state folder and its output in a file."""

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.fork_server import ForkedProcess, run_forked, start_forked

REPOSITORY = Path(__file__).resolve().parents[2]
CALLGATE = str(Path(sys.executable).with_name("callgate"))
ACCEPT_CTRL_C = ("env", "--default-signal=INT")
"""The beginning of a command line. A shell lets processes ignore Ctrl-C that it starts in the background, such as the tests."""
DEADLINE_S = 90.0  # for actions that take a second or two on an idle machine


def environment(state_dir: Path, **settings: str) -> dict[str, str]:
    """Returns the environment of this process with `settings` in place of all variables CALLGATE_… and TWILIO_…."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CALLGATE_", "TWILIO_"))}
    return inherited | {"CALLGATE_STATE_DIR": str(state_dir)} | settings


def run(
    *arguments: str, environment: dict[str, str], standard_input: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `callgate` with these arguments until it ends by itself. Returns its exit code and its output."""
    return run_forked(arguments, environment=environment, standard_input=standard_input, cwd=cwd, timeout_s=DEADLINE_S)


def failure(*arguments: str, environment: dict[str, str], standard_input: str = "") -> tuple[int, str]:
    """Runs a command that must print exactly one line, on standard error. Returns its exit code and this line."""
    finished = run(*arguments, environment=environment, standard_input=standard_input)
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1, finished.stderr
    return finished.returncode, finished.stderr.rstrip("\n")


def failure_to_print(*arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    """Runs a command whose standard output is a full device. Returns its exit code and what it prints on standard error."""
    with Path("/dev/full").open("wb") as full:
        finished = subprocess.run(
            [CALLGATE, *arguments], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S
        )
    return finished.returncode, finished.stderr


def run_with_closed_output(*arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    """Runs a command without a standard output. Returns its exit code and what it prints on standard error."""
    closed = ("sh", "-c", 'exec "$@" >&-', "sh", CALLGATE, *arguments)
    finished = subprocess.run(closed, env=environment, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S)
    return finished.returncode, finished.stderr


def wait_until(condition: Callable[[], bool], description: str) -> None:
    """Waits until another process has made the condition true. Fails with `description` after DEADLINE_S seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {description}"
        time.sleep(0.02)


@dataclass
class Process:
    """A `callgate` process that runs until it gets a signal."""

    child: ForkedProcess | subprocess.Popen[bytes]
    file: Path

    @property
    def output(self) -> str:
        return self.file.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits until the output of the process matches the pattern, and returns the first match. Fails if the process ends."""
        wait_until(lambda: bool(re.search(pattern, self.output)) or self.child.poll() is not None, pattern)
        found = re.search(pattern, self.output)
        assert found, f"ended with {self.child.returncode} and without {pattern!r}:\n{self.output}"
        return found

    def end(self, number: signal.Signals) -> int:
        self.child.send_signal(number)
        return self.child.wait(DEADLINE_S)


@contextmanager
def running(*arguments: str, environment: dict[str, str], file: Path) -> Iterator[Process]:
    with file.open("wb") as output:
        child = start_forked(arguments, environment=environment, output=output.fileno())
    try:
        yield Process(child, file)
    finally:
        child.terminate()
        child.wait(DEADLINE_S)


def state_of(state_dir: Path) -> dict[str, Any]:
    """Returns the state that a running `callgate dev` or `demo` publishes for other commands."""
    announced: dict[str, Any] = json.loads((state_dir / "dev.json").read_text())
    return announced


def ports_of(state_dir: Path) -> list[int]:
    state = state_of(state_dir)
    urls = (state["api_url"], state["simulator_url"], state["database_url"])
    return [int(url.rsplit(":", 1)[1].split("/")[0]) for url in urls if url]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_no_process_is_left(state_dir: Path, ports: list[int]) -> None:
    """Checks that no port is in use and that no process of Postgres runs.

    Each process of Postgres holds a lock in the state folder.
    """
    with (state_dir / "postgres.lock").open() as lock:

        def lock_is_free() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(lock_is_free, "the end of Postgres")
    assert [port for port in ports if is_listening(port)] == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def eventually(condition: Callable[[], bool], description: str) -> None:
    """Waits like `wait_until`, but without blocking the event loop of this process."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {description}"
        await asyncio.sleep(0.02)
