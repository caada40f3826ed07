"""Every command reports a database failure in one line and without a traceback."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import make_url

from app.cli.database_failures import command_failure
from app.errors import DatabaseUnavailable
from tests.cli.running import DEADLINE_S, environment, eventually, failure, free_port, run, running
from tests.support.clients import http_client
from tests.support.gateway import SECRET_KEY, Gateway
from tests.support.tcp import running_proxy
from tests.support.upstream import refused_url

COMMANDS = (
    "migrate",
    "tenants list",
    "accounts list t",
    "keys list t",
    "keys create t",
    "tenants callbacks t",
    "secrets status",
    "secrets rotate",
)

# Runs all commands in one process, because starting each one takes seconds.
_RUN_ALL = """
import contextlib, io, json, sys
from app.cli import main
from tests.support.clients import http_client
ended = {}
for command in sys.argv[1:]:
    sys.argv[1:] = command.split()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    ended[command] = (code, out.getvalue(), err.getvalue())
json.dump(ended, sys.stdout)
"""


def _url(database_url: str, **changes: Any) -> str:
    return make_url(database_url).set(**changes).render_as_string(hide_password=False)


def _run_all(tmp_path: Path, url: str, *commands: str) -> dict[str, tuple[int, str, str]]:
    """Runs the commands in one process. Returns the exit code, standard output and standard error of each command."""
    finished = subprocess.run(
        [sys.executable, "-c", _RUN_ALL, *commands],
        env=environment(tmp_path, CALLGATE_DATABASE_URL=url, CALLGATE_SECRET_KEYS=SECRET_KEY),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    ended: dict[str, tuple[int, str, str]] = json.loads(finished.stdout)
    return ended


async def _assert_one_line(tmp_path: Path, url: str, code: int, message: str, commands: tuple[str, ...] = COMMANDS) -> None:
    ended = await asyncio.to_thread(_run_all, tmp_path, url, *commands, "doctor")
    table = ended.pop("doctor")
    assert (table[0], table[2]) == (1, "")
    assert message in table[1]
    assert "Traceback" not in table[1]
    for command, (ended_with, out, err) in ended.items():
        assert (command, ended_with, out) == (command, code, "")
        assert err.count("\n") == 1, f"{command}: {err}"
        assert err.startswith("callgate: ")
        assert message in err, f"{command}: {err}"
    assert "planted" not in str(ended) + str(table)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"query": {"sslmod": "require"}}, 2, "sslmod"),
        ({"query": {"sslrootcert": "/planted"}}, 2, "sslrootcert"),
        ({"password": "planted"}, 1, "password authentication failed"),
        ({"database": "nowhere"}, 1, '"nowhere" does not exist'),
        ({"host": "nowhere.invalid"}, 1, "Name or service not known"),
        ({"port": int(refused_url().rpartition(":")[2])}, 1, "Connect call failed"),
        ({"query": {"sslmode": "require"}}, 1, "SSL"),
        ({"query": {"target_session_attrs": "standby"}}, 1, "target attribute requirement"),
        ({"host": "db..example.com"}, 2, "invalid host"),
        ({"query": {"options": "-cfoo=1"}}, 1, 'unrecognized configuration parameter "foo"'),
    ],
)
async def test_a_failed_connection_is_reported_in_one_line(
    database_url: str, tmp_path: Path, changes: dict[str, Any], code: int, message: str
) -> None:
    await _assert_one_line(tmp_path, _url(database_url, **changes), code, message)


async def test_a_missing_schema_is_reported_in_one_line(empty_database_url: str, tmp_path: Path) -> None:
    commands = tuple(command for command in COMMANDS if command != "migrate")
    await _assert_one_line(tmp_path, empty_database_url, 1, "callgate migrate", commands)


@asynccontextmanager
async def _role_without_rights(database_url: str) -> AsyncIterator[str]:
    """Creates a database role without any rights and yields the URL with this role. Drops the role at the end."""
    name = f"stranger_{make_url(database_url).database}"
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'planted'")
    try:
        yield _url(database_url, username=name, password="planted")
    finally:
        await connection.execute(f"DROP ROLE {name}")
        await connection.close()


async def test_a_missing_right_is_reported_in_one_line(database_url: str, empty_database_url: str, tmp_path: Path) -> None:
    async with _role_without_rights(database_url) as url:
        commands = tuple(command for command in COMMANDS if command != "migrate")
        await _assert_one_line(tmp_path, url, 1, "permission denied", commands)
    async with _role_without_rights(empty_database_url) as url:
        ended = await asyncio.to_thread(_run_all, tmp_path, url, "migrate")
        code, out, err = ended["migrate"]
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "permission denied" in err


async def test_processes_start_and_report_the_cause(database_url: str, tmp_path: Path) -> None:
    url = _url(database_url, password="planted")
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    api, worker = free_port(), free_port()
    with (
        running("serve", "--port", str(api), environment=configured, file=tmp_path / "serve") as serving,
        running("worker", "--ops-port", str(worker), environment=configured, file=tmp_path / "worker") as working,
    ):
        for port, process in ((api, serving), (worker, working)):
            message: list[object] = []

            async def request(port: int = port, message: list[object] = message) -> bool:
                async with http_client() as http:
                    try:
                        answer = await http.get(f"http://127.0.0.1:{port}/readyz")
                    except httpx.TransportError:
                        return False
                message[:] = [answer.status_code, answer.json().get("reason")]
                return True

            async with asyncio.timeout(DEADLINE_S):
                while not await request():
                    await asyncio.sleep(0.1)
            assert message == [503, "authentication"]
            await eventually(lambda process=process: '"reason": "authentication"' in process.output, "the cause in the log")  # type: ignore[misc]
            assert "Traceback" not in process.output
            assert "ExceptionGroup" not in process.output
            assert "planted" not in process.output


@asynccontextmanager
async def _locked(database_url: str, table: str) -> AsyncIterator[None]:
    """Locks the table, so that statements of commands fail after their lock timeout."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table}")
            yield
    finally:
        await connection.close()


async def test_a_lock_timeout_says_what_is_certain_and_what_to_do(gateway: Gateway, database_url: str, tmp_path: Path) -> None:
    tenant = await gateway.add_tenant()
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    cause = "(canceling statement due to lock timeout): run the command again"
    for table, certain, is_suspended in (
        ("tenant", "the database could not run the command now", False),
        ("pace", "the change is stored, but may not yet apply to calls that already wait", True),
    ):
        async with _locked(database_url, table):
            failed = await asyncio.to_thread(failure, "tenants", "suspend", tenant.id, environment=configured)
        assert failed == (3, f"callgate: {certain} {cause}")
        assert ((await gateway.tenants.get_tenant(tenant.id)).suspended_at is not None) == is_suspended
    assert run("tenants", "suspend", tenant.id, environment=configured).returncode == 0


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("keys", "create"), "a key that was not printed may exist: look for it in `callgate keys list {}`, revoke it"),
        (
            ("tenants", "callback-secret"),
            "a new secret that was not printed may already sign deliveries: run the command again",
        ),
        (("tenants", "suspend"), "it is not certain whether anything was changed: run the command again"),
    ],
)
async def test_a_commit_in_doubt_is_reported(
    gateway: Gateway, database_url: str, tmp_path: Path, command: tuple[str, str], advice: str
) -> None:
    tenant, url = await gateway.add_tenant(), make_url(database_url)
    async with running_proxy(url.host or "", url.port or 5432) as proxy:
        proxy.hold(b"COMMIT")
        behind = _url(database_url, host="127.0.0.1", port=proxy.port)
        configured = environment(tmp_path, CALLGATE_DATABASE_URL=behind, CALLGATE_SECRET_KEYS=SECRET_KEY)
        code, message = await asyncio.to_thread(failure, *command, tenant.id, environment=configured)
    assert code == 3
    assert message.startswith("callgate: the connection to the database was lost")
    assert advice.format(tenant.id) in message


async def test_a_creation_of_a_tenant_in_doubt_is_finished_by_the_same_command(database_url: str, tmp_path: Path) -> None:
    tenant, url = f"doubt-{uuid4()}", make_url(database_url)
    command = ("tenants", "create", tenant, "--name", "Doubt")
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    async with running_proxy(url.host or "", url.port or 5432) as proxy:
        proxy.hold(b"COMMIT")
        behind = configured | {"CALLGATE_DATABASE_URL": _url(database_url, host="127.0.0.1", port=proxy.port)}
        code, message = await asyncio.to_thread(failure, *command, environment=behind)
        assert (code, message.rpartition(": ")[2]) == (3, "run the command again")
        await proxy.deliver_held()
    again = run(*command, environment=configured)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == run("tenants", "show", tenant, environment=configured).stdout
    exists = f"callgate: tenant {tenant} exists already with another name: see `callgate tenants show {tenant}`"
    assert failure(*command[:-1], "Another", environment=configured) == (1, exists)


@pytest.mark.parametrize(
    ("reason", "code", "remedy"),
    [
        ("too_many_connections", 3, "run the command again"),
        ("conflict", 3, "run the command again"),
        ("connection_lost", 3, "run the command again"),
        ("timeout", 3, "run the command again; if it fails again, check CALLGATE_DATABASE_URL"),
        ("not_migrated", 1, "run `callgate migrate`"),
        ("authentication", 1, "check CALLGATE_DATABASE_URL"),
        ("disk_full", 1, "free space on the database server"),
    ],
)
def test_the_remedy_fits_the_reason(reason: str, code: int, remedy: str) -> None:
    error = DatabaseUnavailable()
    error.reason, error.commit_in_doubt = reason, False
    failed = command_failure(error)
    assert (failed.exit_code, str(failed).rpartition("): ")[2]) == (code, remedy)
