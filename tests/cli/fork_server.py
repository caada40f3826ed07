"""Runs `callgate` commands in forks of a process that has imported Callgate, which saves most of a command's CPU time.

Each command has a process, an environment, a folder and streams of its own. Tests of imports, of signals and of the processes
of a deployment start `callgate` itself.
"""

import atexit
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_MAX_REQUEST_BYTES = 128 * 1024  # the arguments and the environment of one command
# What commands import when they run.
_PRELOADED = ("app.cli", "app.apply.service", "app.doctor.checks", "app.services", "app.tenants.administration")


def run_forked(
    arguments: Sequence[str], *, environment: Mapping[str, str], standard_input: str, cwd: Path | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Runs `callgate` with these arguments until it ends. Raises TimeoutError if it does not end in time."""
    request = {"arguments": list(arguments), "environment": dict(environment), "cwd": str(cwd or Path.cwd())}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(standard_input.encode())
        given.seek(0)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                descriptors = [given.fileno(), output.fileno(), errors.fileno(), theirs.fileno()]
                socket.send_fds(_server(), [json.dumps(request).encode()], descriptors)
            ours.settimeout(timeout_s)
            code = int(ours.recv(16))
        return subprocess.CompletedProcess(["callgate", *arguments], code, _text(output), _text(errors))


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
    """Runs the command in a child process, and sends its exit code. In the child process, raises SystemExit at the end."""
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
