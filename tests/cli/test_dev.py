"""`callgate dev` runs everything, and other commands use its database meanwhile."""

import base64
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from select import select
from typing import Any, TypeVar

import httpx
import pytest

from tests.cli.running import (
    Process,
    assert_no_process_is_left,
    environment,
    failure,
    free_port,
    ports_of,
    run,
    running,
    state_of,
)
from tests.support.clients import http_get, sync_http_client

ACCOUNT = f"AC{1:032x}"
TOKEN = "planted-auth-token-0123456789abcdef"
Result = TypeVar("Result")
BASIC = {"to": "sip:kate@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}


@pytest.fixture(scope="module")
def dev(shared_state_dir: Path) -> Iterator[Process]:
    arguments = ("dev", "--port", "0", "--simulator-port", "0")
    with running(*arguments, environment=environment(shared_state_dir), file=shared_state_dir.parent / "output") as process:
        process.wait_for("Ctrl-C")
        yield process


@pytest.fixture
def shell(dev: Process, shared_state_dir: Path) -> dict[str, str]:
    """The environment of a shell that uses the same state folder and has no settings."""
    return environment(shared_state_dir)


def output_of(*arguments: str, shell: dict[str, str], standard_input: str = "") -> Any:
    """Returns the JSON output of a command."""
    finished = run(*arguments, "--json", environment=shell, standard_input=standard_input)
    assert (finished.returncode, finished.stderr) == (0, "")
    return json.loads(finished.stdout)


def run_concurrently(*commands: Callable[[], Result]) -> list[Result]:
    """Runs commands concurrently, because each takes more than a second. Returns their results in the same order."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda command: command(), commands))


@dataclass(frozen=True)
class Setup:
    account: dict[str, Any]
    key: dict[str, Any]
    http: httpx.Client


@pytest.fixture(scope="module")
def setup(dev: Process, shared_state_dir: Path) -> Iterator[Setup]:
    """The tenant `support` with an account and a key, created with commands."""
    shell = environment(shared_state_dir)
    tenant = output_of("tenants", "create", "support", "--name", "Support & Co", shell=shell)
    assert (tenant["id"], tenant["name"], tenant["state"]) == ("support", "Support & Co", "active")
    account, key = run_concurrently(
        lambda: output_of("accounts", "add", "support", "--account-sid", ACCOUNT, shell=shell | {"TWILIO_AUTH_TOKEN": TOKEN}),
        lambda: output_of("keys", "create", "support", "--name", "crm", "--expires", "90d", shell=shell),
    )
    headers = {"Authorization": f"Bearer {key['key']}"}
    with sync_http_client(base_url=state_of(shared_state_dir)["api_url"], headers=headers) as http:
        yield Setup(account, key, http)


def test_a_tenant_created_by_commands_can_place_a_call(setup: Setup) -> None:
    assert {"id", "key"} <= setup.key.keys()
    assert setup.key["key"].startswith(setup.key["id"])
    lasts = datetime.fromisoformat(setup.key["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < lasts <= timedelta(days=90)
    created = setup.http.post("/v1/calls", json=BASIC)
    assert (created.status_code, created.json()["execution"]) == (201, "started")


def test_other_commands_use_the_settings_of_the_running_dev(setup: Setup, shell: dict[str, str]) -> None:
    """Fails with the default settings, which would use the real Twilio and refuse a loopback address."""
    findings, callbacks = run_concurrently(
        lambda: output_of("doctor", shell=shell),
        lambda: output_of("tenants", "callbacks", "support", "--url", "http://127.0.0.1:9/progress", shell=shell),
    )
    (account,) = [finding for finding in findings if finding["check"].startswith("account ")]
    assert account["state"] == "ok"
    assert callbacks["url"] == "http://127.0.0.1:9/progress"
    assert output_of("tenants", "callbacks", "support", "--clear", shell=shell)["url"] is None


def test_a_tenant_can_be_suspended_and_resumed(setup: Setup, shell: dict[str, str]) -> None:
    assert output_of("tenants", "suspend", "support", shell=shell)["state"] == "suspended"
    assert setup.http.post("/v1/calls", json=BASIC).status_code == 403
    shown, (listed,) = run_concurrently(
        lambda: output_of("tenants", "show", "support", shell=shell), lambda: output_of("tenants", "list", shell=shell)
    )
    assert shown == listed
    assert (shown["id"], shown["state"]) == ("support", "suspended")
    assert output_of("tenants", "resume", "support", shell=shell)["state"] == "active"
    assert setup.http.post("/v1/calls", json=BASIC).status_code == 201


def test_callback_defaults_can_be_set_and_the_secret_is_printed_once(setup: Setup, shell: dict[str, str]) -> None:
    configure = ("tenants", "callbacks", "support")
    url = "https://support.example.com/progress"
    given = output_of(*configure, "--url", url, "--event", "settled", "--event", "completed", "--format", "json", shell=shell)
    assert (given["url"], given["events"], given["format"]) == (url, ["settled", "completed"], "json")
    made_secret, refused = run_concurrently(
        lambda: output_of("tenants", "callback-secret", "support", shell=shell),
        lambda: failure(*configure, "--url", "http://169.254.169.254/", environment=shell),
    )
    assert len(base64.b64decode(made_secret["secret"].removeprefix("whsec_"))) == 32
    assert (refused[0], "url_address_refused" in refused[1]) == (1, True)
    shown = run(*configure, "--clear", environment=shell).stdout
    assert dict(line.split(maxsplit=1) for line in shown.splitlines()) == {
        "tenant": "support",
        "url": "-",
        "method": "-",
        "events": "-",
        "format": "json",
        "secret": "set",
    }


def test_credentials_come_from_the_environment_or_standard_input_and_are_never_printed(
    setup: Setup, shell: dict[str, str]
) -> None:
    key_sid = "SK" + "b" * 32
    add = ("accounts", "add", "support", "--account-sid", ACCOUNT)
    dublin = "https://api.dublin.ie1.twilio.com"
    second, third = run_concurrently(
        lambda: output_of(*add, "--key-sid", key_sid, shell=shell | {"TWILIO_API_SECRET": TOKEN}),
        lambda: output_of(*add, "--base-url", dublin, shell=shell, standard_input=f"{TOKEN[::-1]}\n"),
    )
    again = output_of(*add, shell=shell | {"TWILIO_AUTH_TOKEN": TOKEN})
    assert again["credential"] == setup.account["credential"], "the same secret is stored once"
    assert [each["username"] for each in (setup.account, second, third)] == [ACCOUNT, key_sid, ACCOUNT]
    assert [each["kind"] for each in (setup.account, second, third)] == ["auth_token", "api_key", "auth_token"]
    assert output_of("accounts", "revoke", "support", third["credential"], shell=shell)["revoked_at"]
    listed = run("accounts", "list", "support", environment=shell).stdout
    assert third["credential"] not in listed
    assert listed.count(dublin) == 2, "the base URL of the account is listed with each of its credentials"
    for planted in (TOKEN, TOKEN[::-1]):
        assert planted not in listed + json.dumps([setup.account, second, third])


def test_a_revoked_key_is_refused_and_lists_show_no_key(setup: Setup, shell: dict[str, str]) -> None:
    shown, revoked = run_concurrently(
        lambda: run("keys", "create", "support", environment=shell).stdout,
        lambda: output_of("keys", "revoke", setup.key["id"], shell=shell),
    )
    other = re.search(r"^key +(cgk_\S+)$", shown, flags=re.MULTILINE)
    assert other
    assert revoked["state"] == "revoked"
    assert setup.http.post("/v1/calls", json=BASIC).status_code == 401
    table = run("keys", "list", "support", environment=shell).stdout
    head, *rows = table.splitlines()
    assert head.split() == ["ID", "NAME", "SCOPES", "STATE", "CREATED_AT", "EXPIRES_AT", "LAST_USED_AT"]
    assert {(row.split()[0], state) for row in rows for state in ("active", "revoked") if f" {state} " in row} == {
        (setup.key["id"], "revoked"),
        ("_".join(other[1].split("_")[:2]), "active"),
    }
    assert other[1] not in table
    assert setup.key["key"] not in table


def test_a_key_in_twilios_format_is_alone_on_standard_output_and_works(setup: Setup, shell: dict[str, str]) -> None:
    """Covers clients that accept only what looks like Twilio's auth tokens: 32 lower-case hexadecimal digits."""
    created = run("keys", "create", "support", "--format", "twilio", "--name", "apprise", environment=shell)
    assert re.fullmatch(r"[0-9a-f]{32}\n", created.stdout)
    key = created.stdout.strip()
    id_ = dict(line.split(maxsplit=1) for line in created.stderr.splitlines() if line)["id"]
    assert re.fullmatch(r"cgk_[0-9a-f]{12}", id_)
    calls = f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    with sync_http_client(base_url=setup.http.base_url) as http:
        for user in (ACCOUNT, id_):
            assert http.get(calls, auth=(user, key)).status_code == 200
        assert http.get("/v1/calls", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert http.get(calls, auth=(ACCOUNT, key[:-1] + ("0" if key[-1] != "0" else "1"))).status_code == 401
        listed = run("keys", "list", "support", environment=shell).stdout
        assert (id_ in listed, key in listed, key[:12] in listed) == (True, False, False)
        assert output_of("keys", "revoke", id_, shell=shell)["state"] == "revoked"
        assert http.get(calls, auth=(ACCOUNT, key)).status_code == 401
    as_json = output_of("keys", "create", "support", "--format", "twilio", shell=shell)
    assert re.fullmatch(r"[0-9a-f]{32}", as_json["key"])


def test_a_base_url_may_end_with_the_api_version(setup: Setup, shell: dict[str, str]) -> None:
    add = ("accounts", "add", "support", "--account-sid", "AC" + "7" * 32, "--base-url")
    output_of(*add, "https://api.dublin.ie1.twilio.com/2010-04-01/", shell=shell | {"TWILIO_AUTH_TOKEN": TOKEN})
    listed = output_of("accounts", "list", "support", shell=shell)
    assert "https://api.dublin.ie1.twilio.com" in {account["base_url"] for account in listed}


def test_failures_are_reported_in_one_line_with_advice(shell: dict[str, str]) -> None:
    wrong = {
        ("tenants", "show", "nobody"): "callgate: there is no tenant nobody: see `callgate tenants list`",
        ("keys", "revoke", "cgk_0"): "callgate: there is no key cgk_0: see `callgate keys list`",
        ("accounts", "add", "nobody", "--account-sid", ACCOUNT): (
            "callgate: no secret was given: set TWILIO_AUTH_TOKEN or pass the secret on standard input"
        ),
        ("tenants", "create", "blank", "--name", " "): (
            "callgate: the name of a tenant has 1 to 200 characters, and not only spaces"
        ),
        ("tenants", "create", "long", "--name", "x" * 201): (
            "callgate: the name of a tenant has 1 to 200 characters, and not only spaces"
        ),
        ("keys", "create", "--operator", "--name", "x" * 201): (
            "callgate: the name of a key has 1 to 200 characters, and no NUL"
        ),
    }
    assert run_concurrently(*(partial(failure, *arguments, environment=shell) for arguments in wrong)) == [
        (1, message) for message in wrong.values()
    ]


def test_a_second_dev_and_clean_are_refused_while_dev_runs(shell: dict[str, str], shared_state_dir: Path) -> None:
    for code, message in run_concurrently(
        partial(failure, "dev", environment=shell), partial(failure, "clean", environment=shell)
    ):
        assert code == 1
        assert re.fullmatch(r"callgate: `callgate dev` or `demo` runs over .+: stop it first", message)
    assert (shared_state_dir / "secret_key").exists()


def test_a_requested_port_that_is_in_use_is_refused(
    dev: Process, shared_state_dir: Path, state_dir: Path, database_url: str
) -> None:
    taken = str(ports_of(shared_state_dir)[0])
    elsewhere = environment(state_dir, CALLGATE_DATABASE_URL=database_url)
    assert failure("dev", "--port", taken, environment=elsewhere) == (
        1,
        f"callgate: cannot listen on 127.0.0.1:{taken} (Address already in use): choose another with --port",
    )


def test_servers_keep_idle_connections_longer_than_clients_do(dev: Process, shared_state_dir: Path) -> None:
    api, simulator, _ = ports_of(shared_state_dir)
    with closing(HTTPConnection("127.0.0.1", api)) as to_api, closing(HTTPConnection("127.0.0.1", simulator)) as to_simulator:
        for connection, path in ((to_api, "/livez"), (to_simulator, "/_simulator/faults")):
            connection.request("GET", path)
            assert connection.getresponse().read()
        time.sleep(5.5)  # the default of uvicorn and of many clients is 5 s
        for connection in (to_api, to_simulator):
            assert select([connection.sock], [], [], 0)[0] == [], "the server has closed it"


def test_a_configured_database_is_used_by_dev_and_by_other_commands(
    state_dir: Path, tmp_path: Path, empty_database_url: str
) -> None:
    configured = environment(state_dir, CALLGATE_DATABASE_URL=empty_database_url)
    port = free_port()
    with running("dev", "--port", str(port), "--no-simulator", environment=configured, file=tmp_path / "output") as process:
        process.wait_for("Ctrl-C")
        assert "the one of CALLGATE_DATABASE_URL" in process.output
        assert http_get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        assert output_of("tenants", "list", shell=environment(state_dir)) == []
        refusal = (1, f"callgate: `callgate dev` or `demo` runs over {state_dir}, at http://127.0.0.1:{port}: stop it first")
        assert failure("dev", environment=configured) == failure("clean", environment=configured) == refusal
        assert state_of(state_dir)["api_url"].endswith(f":{port}")
        process.end(signal.SIGKILL)
    assert not (state_dir / "postgres").exists()
    assert (state_dir / "dev.json").exists(), "what it leaves behind misleads nobody:"
    code, message = failure("tenants", "list", environment=environment(state_dir))
    assert code == 2
    assert "CALLGATE_DATABASE_URL is not set" in message


def test_the_simulator_does_not_answer_for_the_tenants_of_a_configured_database(
    state_dir: Path, tmp_path: Path, database_url: str
) -> None:
    keys = base64.b64encode(bytes(32)).decode()
    configured = environment(state_dir, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=keys)
    assert run("tenants", "create", "acme", "--name", "Acme", environment=configured).returncode == 0
    for command in ("dev", "demo"):
        code, message = failure(command, environment=configured)
        assert code == 1
        assert "the database of CALLGATE_DATABASE_URL has tenants, and the simulator would answer their calls" in message
    assert not state_dir.exists()
    assert [row["id"] for row in output_of("tenants", "list", shell=configured)] == ["acme"]
    requested = ("dev", "--port", "0", "--simulator-port", "0", "--simulator")
    with running(*requested, environment=configured, file=tmp_path / "output") as process:
        process.wait_for("Simulator  http://.*(.|\n)*Ctrl-C")


def test_a_state_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, message = failure("dev", environment=environment(tmp_path / "file" / "state"))
    assert code == 1
    assert "CALLGATE_STATE_DIR" in message


def test_ctrl_c_stops_dev_and_clean_then_removes_everything(dev: Process, shared_state_dir: Path) -> None:
    ports = ports_of(shared_state_dir)
    assert dev.end(signal.SIGINT) == 0
    assert_no_process_is_left(shared_state_dir, ports)
    assert run("clean", environment=environment(shared_state_dir)).returncode == 0
    assert not shared_state_dir.exists()
