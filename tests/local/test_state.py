"""Other commands see whether the `callgate dev` of a state folder runs, also if several of them look at the same time."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.local.state import RunningStack, StateFolder

STACK = RunningStack("http://127.0.0.1:1", None, "postgresql://127.0.0.1:2/c", "key", "https://api.twilio.com", None, None)
ANNOUNCE = """
import sys
from pathlib import Path
from app.local.state import StateFolder
from tests.local.test_state import STACK

with StateFolder(Path(sys.argv[1])).announced_as_running(STACK):
    print("announced", flush=True)
    sys.stdin.read()
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


def test_other_lookups_do_not_change_whether_a_stack_is_found(tmp_path: Path) -> None:
    folder, file = StateFolder(tmp_path), tmp_path / "dev.json"
    with _running_program(ANNOUNCE, tmp_path):
        assert folder.find_running_stack() == STACK
    with file.open() as looked_at:  # it exists, because the stack was killed
        fcntl.flock(looked_at, fcntl.LOCK_SH)  # as another lookup does
        assert folder.find_running_stack() is None
        with folder.announced_as_running(STACK):
            assert folder.find_running_stack() == STACK
    assert not file.exists()
