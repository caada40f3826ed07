"""A command imports what it needs: an admin command runs beside the API, in the memory that the API leaves."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import environment
from tests.support.gateway import SECRET_KEY

SERVER = {"fastapi", "starlette", "uvicorn", "aiohttp", "httpx", "simulator", "alembic", "mako", "twilio", "jwt"}
DATABASE = {"sqlalchemy", "asyncpg", "cryptography", "uuid_utils"}


def loaded(*arguments: str, **settings: str) -> set[str]:
    """The top-level modules that a command has imported by its end."""
    program = "import sys\nfrom app.__main__ import main\n"
    program += (
        f"sys.argv[1:] = {list(arguments)!r}\ntry: main()\nexcept SystemExit: pass\nfinally: print('LOADED', *sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in ran.stdout.rpartition("LOADED ")[2].split()}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["keys", "--help"], ["sip", "check", "sip:a@example.com"]])
def test_help_needs_neither_server_nor_database(arguments: list[str], tmp_path: Path) -> None:
    modules = loaded(*arguments, **environment(tmp_path))
    assert "typer" in modules
    assert modules & (SERVER | DATABASE) == set()


@pytest.mark.parametrize(
    "arguments", [["keys", "list", "x"], ["tenants", "list"], ["accounts", "list", "x"], ["secrets", "status"]], ids=" ".join
)
def test_an_admin_command_needs_no_server(arguments: list[str], tmp_path: Path, database_url: str) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    modules = loaded(*arguments, **configured)
    assert "asyncpg" in modules
    assert modules & SERVER == set()


def test_no_process_needs_twilios_sdk(tmp_path: Path) -> None:
    program = "import sys, app.main, app.jobs.worker; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert "twilio" not in ran.stdout.split()
