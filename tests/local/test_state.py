"""Other commands see whether the `callgate dev` of a state folder runs, also if several of them look at the same time."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.local.state import RunningStack, StateFolder

STACK = RunningStack("http://127.0.0.1:1", None, "postgresql://127.0.0.1:2/c", "key", "https://api.twilio.com", None, None)
PROBES = 5_000
ANNOUNCE = """
import sys
from pathlib import Path
from app.local.state import StateFolder
from tests.local.test_state import STACK

with StateFolder(Path(sys.argv[1])).announced_as_running(STACK):
    print("announced", flush=True)
    sys.stdin.read()
"""
PROBE_FOREVER = """
import sys
from pathlib import Path
from app.local.state import StateFolder

folder = StateFolder(Path(sys.argv[1]))
print("probes", flush=True)
while True:
    folder.find_running_stack()
"""


@contextmanager
def _running_program(program: str, directory: Path) -> Iterator[None]:
    """Runs the Python program from its first line of output on. Kills it at the end of the block."""
    command = (sys.executable, "-c", program, str(directory))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            yield
        finally:
            process.kill()


def test_a_stack_is_found_while_it_runs_and_only_then_whoever_else_looks(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    with _running_program(PROBE_FOREVER, tmp_path):
        with _running_program(ANNOUNCE, tmp_path):
            assert {folder.find_running_stack() for _ in range(PROBES)} == {STACK}
        assert (tmp_path / "dev.json").exists(), "it was killed"
        assert {folder.find_running_stack() for _ in range(PROBES)} == {None}
        with folder.announced_as_running(STACK):
            assert folder.find_running_stack() == STACK
    assert not (tmp_path / "dev.json").exists()
