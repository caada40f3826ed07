"""Runs `callgate` commands in forks of a process that has imported Callgate, which saves most of a command's CPU time.

Each command has a process, an environment, a folder and streams of its own, and can get signals. Tests of imports, of the
handling of signals and of the processes of a deployment start `callgate` without a fork server. The fleets of tests/proofs,
which start dozens of processes, use forks.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_MAX_REQUEST_BYTES = 128 * 1024  # the arguments and the environment of one command
# What commands import when they run. The second line is for `callgate serve`, `worker` and `simulator`.
_PRELOADED = (
    *("app.cli", "app.apply.service", "app.doctor.checks", "app.services", "app.tenants.administration"),
    *("app.main", "app.http.server", "app.jobs.worker", "app.local.probes", "simulator.main"),
)


class ForkedProcess:
    """A `callgate` process that a fork server has started. The methods are those of `subprocess.Popen`."""

    def __init__(self, reply: socket.socket) -> None:
        self._reply = reply
        weakref.finalize(self, reply.close)
        self.pid = int(reply.recv(16))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code; None while the process runs."""
        with contextlib.suppress(TimeoutError):
            return self.wait(0.0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code when the process has ended. Raises TimeoutError if it does not end in `timeout` seconds."""
        if self.returncode is None:
            readable, _, _ = select.select([self._reply], [], [], timeout)
            if not readable:
                raise TimeoutError
            self.returncode = int(self._reply.recv(16, socket.MSG_PEEK))  # another thread may wait for it, too
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start_forked(arguments: Sequence[str], *, environment: Mapping[str, str], output: int) -> ForkedProcess:
    """Starts `callgate` with these arguments. Its output goes to the file descriptor `output`."""
    with Path(os.devnull).open("rb") as nothing:
        return _start(arguments, environment, None, nothing.fileno(), output, output)


def run_forked(
    arguments: Sequence[str], *, environment: Mapping[str, str], standard_input: str, cwd: Path | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Runs `callgate` with these arguments until it ends. Raises TimeoutError if it does not end in time."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(standard_input.encode())
        given.seek(0)
        streams = (given.fileno(), output.fileno(), errors.fileno())
        code = _start(arguments, environment, cwd, *streams).wait(timeout_s)
        return subprocess.CompletedProcess(["callgate", *arguments], code, _text(output), _text(errors))


def _start(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path | None, *streams: int) -> ForkedProcess:
    request = {"arguments": list(arguments), "environment": dict(environment), "cwd": str(cwd or Path.cwd())}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        socket.send_fds(_server(), [json.dumps(request).encode()], [*streams, theirs.fileno()])
    return ForkedProcess(ours)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _server() -> socket.socket:
    """Starts the server of this process, which ends when the socket is closed. Returns the socket for requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    atexit.register(_stop, server, ours)
    return ours


def _stop(server: subprocess.Popen[bytes], control: socket.socket) -> None:
    control.close()
    server.wait()


def _serve(control: socket.socket) -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors leave no zombies
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _supervise(json.loads(request), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(request: Mapping[str, object], descriptors: Sequence[int]) -> None:
    """Runs the command in a child process, and sends its id and exit code. In the child process, ends with SystemExit."""
    *streams, reply = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(reply)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        _run_command(**request)  # type: ignore[arg-type]  # read from JSON
        sys.exit()
    os.write(reply, str(child).encode())
    for descriptor in streams:
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    os.write(reply, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run_command(arguments: Sequence[str], environment: Mapping[str, str], cwd: str) -> None:
    from app.__main__ import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["callgate", *arguments]
    main()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
