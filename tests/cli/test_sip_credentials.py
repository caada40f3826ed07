"""`callgate sip-credentials` stores, lists and deletes SIP credentials, and never takes the password as an argument."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from app.schema import migrate
from app.security.keyring import Keyring
from app.tenants.directory import TenantDirectory
from tests.cli.running import CALLGATE, environment, failure, run
from tests.support.gateway import SECRET_KEY, running_gateway, settings_for


async def test_a_password_is_read_from_file_environment_and_standard_input_and_never_shown(
    empty_database_url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(migrate, empty_database_url)
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=empty_database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    file = tmp_path / "password"
    file.write_bytes(b"\xef\xbb\xbffrom a file\n")  # with the byte order mark of some editors
    create = ("sip-credentials", "create", "shop", "pbx-berlin", "--username", "jack")
    assert run("tenants", "create", "shop", "--name", "Shop", environment=configured).returncode == 0
    async with running_gateway(settings_for(empty_database_url)) as gateway:
        directory = TenantDirectory(gateway.database, Keyring(gateway.settings.require_secret_keys()))

        async def stored(*arguments: str, standard_input: str = "", **variables: str) -> str:
            """Runs a command and returns the password that is stored then."""
            ran = await asyncio.to_thread(run, *arguments, environment=configured | variables, standard_input=standard_input)
            assert (ran.returncode, ran.stderr) == (0, "")
            auth = await directory.sip_auth("shop", "pbx-berlin")
            assert auth is not None
            assert auth.username.get_secret_value() == "jack"
            password = auth.password.get_secret_value()
            assert password not in ran.stdout
            assert "jack" not in ran.stdout
            return password

        assert await stored(*create, standard_input="from a pipe\n") == "from a pipe"
        assert await stored(*create, "--replace", SIP_AUTH_PASSWORD="from a variable") == "from a variable"
        assert await stored(*create, "--replace", "--password-file", str(file), "--json") == "from a file"
        listed = run("sip-credentials", "list", "shop", "--json", environment=configured)
        (row,) = json.loads(listed.stdout)
        assert row.keys() == {"name", "tenant", "created_at", "updated_at"}
        assert (row["name"], row["tenant"]) == ("pbx-berlin", "shop")
        assert run("sip-credentials", "delete", "shop", "pbx-berlin", environment=configured).returncode == 0
        assert await directory.sip_auth("shop", "pbx-berlin") is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("printf '\\377\\n' | \"$@\"", "standard input cannot be read as text"),
        ("SIP_AUTH_PASSWORD=$(printf '\\377') \"$@\"", "SIP_AUTH_PASSWORD cannot be read as text"),
        ('"$@" <&-', "no secret was given: set SIP_AUTH_PASSWORD or pass the secret on standard input"),
    ],
)
def test_a_password_that_cannot_be_read(given: str, message: str, tmp_path: Path) -> None:
    command = (CALLGATE, "sip-credentials", "create", "shop", "pbx", "--username", "u")
    ended = subprocess.run(["sh", "-c", given, "sh", *command], env=environment(tmp_path), capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"callgate: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "standard_input", "message"),
    [
        (("create", "shop", "pbx", "--username", "u"), "", "no secret was given"),
        (("create", "shop", "pbx", "--username", "u", "--password-file", "/nowhere/at-all"), "", "cannot be read"),
        (("create", "shop", "pbx", "--username", "u", "--replace"), "p", "has no SIP credential 'pbx'"),
        (("create", "nobody", "pbx", "--username", "u"), "p", "there is no tenant nobody"),
        (("create", "shop", "p b x", "--username", "u"), "p", "not a name"),
        (("delete", "shop", "pbx"), "", "has no SIP credential 'pbx'"),
        (("list", "nobody"), "", "there is no tenant nobody"),
    ],
)
def test_failures_say_what_to_do_in_one_line(
    database_url: str, tmp_path: Path, arguments: tuple[str, ...], standard_input: str, message: str
) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    run("tenants", "create", "shop", "--name", "Shop", environment=configured)
    code, said = failure("sip-credentials", *arguments, environment=configured, standard_input=standard_input)
    assert code == 1
    assert message in said
