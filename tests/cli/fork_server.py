"""Runs `callgate` commands in forks of a process that has imported Callgate, which saves most of a command's CPU time.

Each command has a process, an environment, a folder and streams of its own, and can get signals. Tests of imports, and of what
a process inherits from a shell or a terminal, start `callgate` itself.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

_MAX_REQUEST_BYTES = 128 * 1024  # the arguments and the environment of one command
# What commands import when they run. The second line is for `callgate serve`, `worker` and `simulator`.
_PRELOADED = (
    *("app.cli", "app.apply.service", "app.doctor.checks", "app.services", "app.tenants.administration"),
    *("app.main", "app.http.server", "app.jobs.worker", "app.local.probes", "simulator.main"),
)


class ForkedProcess:
    """A `callgate` process that a fork server has started. The methods are like those of `subprocess.Popen`."""

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

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


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


def forking_callgate(folder: Path) -> tuple[dict[str, str], list[int]]:
    """Writes a program `callgate` for shells to `folder`. The fork server runs its commands.

    Returns the environment variables that it needs, and the file descriptors that the shell must inherit.
    """
    program = folder / "callgate"
    program.write_text(f"#!{sys.executable} -IS\n{Path(__file__).with_name('forking_callgate.py').read_text()}")
    program.chmod(0o755)
    descriptor = _server().fileno()
    return {"FORK_SERVER": str(descriptor)}, [descriptor]


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
    control.shutdown(socket.SHUT_RDWR)  # a shell that still runs has the socket, too
    control.close()
    server.wait()


def _serve(control: socket.socket) -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # the garbage collections of a fork would copy all that it shares with this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors leave no zombies
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, 4)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            _supervise(json.loads(request), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(request: Mapping[str, object], descriptors: Sequence[int]) -> NoReturn:
    """Runs the command in a child process, and sends its id and exit code.

    Kills the child process if the process that waits for the exit code has ended.
    """
    *streams, reply = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(reply)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)
        _run_command(**request)  # type: ignore[arg-type]  # read from JSON
    for descriptor in streams:
        os.close(descriptor)
    with contextlib.suppress(BrokenPipeError):
        os.write(reply, str(child).encode())
    ended, watched = os.pidfd_open(child), select.poll()
    watched.register(ended, select.POLLIN)
    watched.register(reply, 0)  # reports only that the other side is closed
    if ended not in dict(watched.poll()):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(reply, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run_command(arguments: Sequence[str], environment: Mapping[str, str], cwd: str) -> NoReturn:
    from app.__main__ import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    # The server's own streams may be files, and these may be pipes.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115  # descriptors, left open
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for the tests if they run in the background
    sys.argv = ["callgate", *arguments]
    _end_with(main)


def _end_with(main: Callable[[], None]) -> NoReturn:
    """Runs `main` and ends the process with its exit code, without destroying all objects, which takes most of the time.

    Unlike the interpreter, ends with 1 after a KeyboardInterrupt, and with the command's own code if its output is not written.
    """
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
