"""A command imports only what it needs. An admin command runs beside the API, in the memory that the API leaves free."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import environment
from tests.support.gateway import SECRET_KEY
from tests.support.upstream import refused_url

SERVER = {"fastapi", "starlette", "uvicorn", "aiohttp", "httpx", "simulator", "alembic", "mako", "twilio", "jwt"}
DATABASE = {"sqlalchemy", "asyncpg", "cryptography", "uuid_utils"}
# `rich` comes with structlog.
HEAVY = {"phonenumbers", "sqlalchemy", "structlog", "rich", "opentelemetry", "prometheus_client"}


def loaded(*arguments: str, **settings: str) -> set[str]:
    """Returns the top-level modules that the command's process has imported when the command ends."""
    return ran(*arguments, **settings)[0]


def ran(*arguments: str, **settings: str) -> tuple[set[str], int, str]:
    """Returns the top-level modules that a command has imported when it ends, its exit code and its standard output."""
    program = "import sys\nfrom app.__main__ import main\n"
    program += f"sys.argv[1:] = {list(arguments)!r}\ncode = 0\n"
    program += "try: main()\nexcept SystemExit as end: code = end.code or 0\nfinally: print('LOADED', code, *sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    output, _, listed = finished.stdout.rpartition("LOADED ")
    code, *modules = listed.split()
    return {name.partition(".")[0] for name in modules}, int(code), output


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["keys", "--help"], ["sip", "check", "sip:a@example.com"]])
def test_help_needs_neither_server_nor_database(arguments: list[str], tmp_path: Path) -> None:
    modules = loaded(*arguments, **environment(tmp_path))
    assert "typer" in modules
    assert modules & (SERVER | DATABASE | HEAVY) == set()


def test_commands_on_tenants_need_neither_server_nor_sqlalchemy_nor_logs(tmp_path: Path, database_url: str) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    configured |= {"TWILIO_AUTH_TOKEN": "t" * 32, "SIP_AUTH_PASSWORD": "secret"}

    def check(*arguments: str, encrypts: bool = False) -> str:
        modules, code, output = ran(*arguments, **configured)
        assert (arguments, code) == (arguments, 0)
        assert "asyncpg" in modules
        assert (arguments, modules & (SERVER | HEAVY)) == (arguments, set())
        assert ("cryptography" in modules) is encrypts, arguments
        return output

    check("tenants", "create", "x", "--name", "X")
    check("tenants", "list")
    check("tenants", "show", "x")
    check("tenants", "suspend", "x")
    check("tenants", "resume", "x")
    check("tenants", "limits", "x", "--max-in-flight", "5")
    check("tenants", "hours", "x", "--time-zone", "Europe/Berlin", "--from", "09:00", "--to", "18:00")
    check("tenants", "callbacks", "x", "--url", "https://example.com/told")
    check("tenants", "callback-secret", "x", encrypts=True)
    check("accounts", "add", "x", "--account-sid", "AC" + "0" * 32, encrypts=True)
    (account,) = json.loads(check("accounts", "list", "x", "--json"))
    check("accounts", "pace", "x", account["account_sid"], "--calls-per-second", "1")
    check("accounts", "revoke", "x", account["credential"])
    check("sip-credentials", "create", "x", "pbx", "--username", "jack", encrypts=True)
    check("sip-credentials", "list", "x")
    check("sip-credentials", "delete", "x", "pbx")
    check("keys", "create", "x", encrypts=True)
    (key,) = json.loads(check("keys", "list", "x", "--json"))
    check("keys", "revoke", key["id"])
    service_account = ("--namespace", "a", "--service-account", "b", "--issuer", "https://oidc.example.com")
    check("workloads", "create", "x", *service_account)
    (workload,) = json.loads(check("workloads", "list", "x", "--json"))
    check("workloads", "delete", workload["id"])
    (tmp_path / "tenants.yaml").write_text("tenants: [{id: x, name: Y, callbacks: {url: 'https://example.com/other'}}]")
    check(
        "queues", "set", "x", "reminders", "--calls-per-second", "1", "--time-zone", "UTC", "--from", "09:00", "--to", "20:00"
    )
    check("queues", "list", "x")
    check("queues", "show", "x", "reminders")
    check("queues", "pause", "x", "reminders")
    check("apply", "-f", str(tmp_path / "tenants.yaml"))
    check("audit", "x", "--since", "1h")
    check("console", "link")
    check("console", "sessions")


def test_trouble_of_the_database_needs_no_more(tmp_path: Path) -> None:
    url = refused_url().replace("http", "postgresql")
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    modules, code, output = ran("keys", "list", "x", **configured)
    assert (code, output) == (1, "")
    assert modules & (SERVER | HEAVY) == set()


def test_encryption_keys_need_no_server(tmp_path: Path, database_url: str) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    modules = loaded("secrets", "status", **configured)
    assert "asyncpg" in modules
    assert modules & SERVER == set()


def imported_with(modules: str, tmp_path: Path) -> set[str]:
    """Returns the names of all modules in a process that has imported `modules`."""
    command = [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"]
    finished = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def test_no_process_needs_twilios_sdk(tmp_path: Path) -> None:
    assert "twilio" not in imported_with("app.main, app.jobs.worker", tmp_path)


def test_a_worker_with_probes_needs_neither_the_routes_of_the_api_nor_the_simulator(tmp_path: Path) -> None:
    modules = imported_with("app.jobs.worker, app.local.probes", tmp_path)
    assert "fastapi" in modules, "it serves the probes"
    assert not {"app.main", "simulator"} & modules
    assert not [module for module in modules if module.startswith("app.") and module.endswith("router")]
