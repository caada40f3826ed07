"""`callgate console` makes links for logging in, lists who is logged in, and ends sessions."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.tenants.scopes import Scope
from tests.cli.running import environment, failure, run
from tests.console.conftest import LogIn, browser, log_in
from tests.support.gateway import SECRET_KEY, Gateway

__all__ = ["log_in"]


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)


def listed(shell: dict[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run("console", "sessions", "--json", environment=shell).stdout)
    return rows


async def test_sessions_are_listed_and_ended(gateway: Gateway, log_in: LogIn, shell: dict[str, str]) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    own, operator = await log_in(tenant.id, Scope.READ), await log_in()
    sessions = {row["who"]: row for row in listed(shell)}
    assert sessions[f"key:{own.key_id}"]["tenant"] == tenant.id
    assert sessions[f"key:{operator.key_id}"]["tenant"] is None
    session_id = sessions[f"key:{own.key_id}"]["id"]
    ended = run("console", "end", session_id, environment=shell)
    assert (ended.returncode, ended.stdout) == (0, f"Ended the session {session_id}.\n")
    assert (await own.get("/session")).status_code == 303
    assert (await operator.get("/session")).status_code == 200
    assert session_id not in {row["id"] for row in listed(shell)}
    for unknown in (session_id, str(uuid4())):
        code, message = failure("console", "end", unknown, environment=shell)
        assert code == 1
        assert f"there is no session {unknown}" in message
    audited = run("audit", tenant.id, "--action", "console.logout", "--json", environment=shell).stdout
    assert [(event["subject"], event["actor_kind"]) for event in json.loads(audited)] == [(session_id, "cli")]


async def test_a_link_can_be_taken_back(gateway: Gateway, shell: dict[str, str]) -> None:
    before = {row["id"] for row in listed(shell)}
    address = run("console", "link", "--url", f"{gateway.url}/", environment=shell).stdout.strip()
    base, _, link = address.rpartition("/console/link/")
    assert base == gateway.url
    (made,) = [row for row in listed(shell) if row["id"] not in before]
    assert made["who"].startswith("link:")
    assert link not in str(made)
    assert run("console", "end", made["id"], environment=shell).returncode == 0
    http = await browser(gateway)
    assert (await http.post("/console/link", data={"link": link})).status_code == 401


async def test_an_unused_link_is_told_from_the_session_that_it_starts(gateway: Gateway, shell: dict[str, str]) -> None:
    before = {row["id"] for row in listed(shell)}
    link = run("console", "link", environment=shell).stdout.strip().rpartition("/")[2]
    # The idle timeout is that of sessions. A link can be used for 15 minutes.
    (unused,) = [row for row in listed(shell | {"CALLGATE_CONSOLE_IDLE_TIMEOUT": "0.001"}) if row["id"] not in before]
    assert (unused["state"], unused["seen"]) == ("unused link", None)
    http = await browser(gateway)
    assert (await http.post("/console/link", data={"link": link})).status_code == 303
    (session,) = [row for row in listed(shell) if row["id"] == unused["id"]]
    assert (session["state"], session["seen"]) == ("logged in", session["created"])
    assert (session["who"], session["expires"] > unused["expires"]) == (unused["who"], True)
    title, *lines = run("console", "sessions", environment=shell).stdout.splitlines()
    assert title.split() == ["ID", "WHO", "TENANT", "STATE", "CREATED", "SEEN", "EXPIRES"]
    assert ["logged in" in line for line in lines if unused["id"] in line] == [True]


def test_a_link_is_for_the_configured_address(shell: dict[str, str]) -> None:
    variables: tuple[dict[str, str], ...] = (
        {},
        {"CALLGATE_OPS_PORT": "8001"},
        {"CALLGATE_CONSOLE_URL": "https://ops.example.com/"},
        {"CALLGATE_CONSOLE_URL": "https://ops.example.com/callgate/console/"},
    )
    links = [run("console", "link", "--json", environment=shell | added).stdout for added in variables]
    bases = [json.loads(text)["link"].partition("/console/link/")[0] for text in links]
    assert bases == [
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8001",
        "https://ops.example.com",
        "https://ops.example.com/callgate",
    ]
    given = run("console", "link", "--url", "https://ops.example.com/console", environment=shell).stdout
    assert given.startswith("https://ops.example.com/console/link/")
    refused = run("console", "link", "--url", "ops.example.com/console", environment=shell)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "it must be an http:// or https:// URL; use a URL such as" in refused.stderr
