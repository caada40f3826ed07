"""`callgate audit` lists what the other commands changed."""

import json
from pathlib import Path
from typing import Any

from app.audit.events import command_actor
from tests.cli.running import environment, run
from tests.support.gateway import SECRET_KEY


def test_commands_are_recorded_and_listed(database_url: str, tmp_path: Path) -> None:
    shell = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)

    def listed(*arguments: str) -> list[dict[str, Any]]:
        finished = run("audit", *arguments, "--json", environment=shell)
        assert (finished.returncode, finished.stderr) == (0, "")
        rows: list[dict[str, Any]] = json.loads(finished.stdout)
        return rows

    for tenant in ("anna", "bob"):
        assert run("tenants", "create", tenant, "--name", "planted name", environment=shell).returncode == 0
    key = json.loads(run("keys", "create", "anna", "--json", environment=shell).stdout)
    run("tenants", "callbacks", "anna", "--url", "https://planted.example.com/", environment=shell)

    rows = listed()
    assert [(row["tenant"], row["action"], row["subject"], row["changed"]) for row in rows] == [
        ("anna", "tenant.update", "anna", ["status_callback"]),
        ("anna", "key.create", key["id"], []),
        ("bob", "tenant.create", "bob", []),
        ("anna", "tenant.create", "anna", []),
    ]
    user = command_actor().name
    assert {(row["actor_kind"], row["actor"], row["request_id"]) for row in rows} == {("cli", user, None)}
    assert listed("bob") == rows[2:3]
    assert listed("--action", "tenant.create") == rows[2:]
    assert listed("anna", "--actor", "nobody-of-that-name") == []
    assert listed("--since", "1h") == rows
    assert listed("--since", "2100-01-01T00:00:00Z") == []
    assert "planted" not in json.dumps(rows)

    first = run("audit", "--limit", "3", environment=shell)
    header, *lines = first.stdout.splitlines()
    assert (header.split()[:3], len(lines)) == (["AT", "ACTOR", "ACTION"], 3)
    assert f"cli:{user}" in lines[0]
    cursor = first.stderr.removeprefix("more: --cursor ").strip()
    assert listed("--limit", "3", "--cursor", cursor) == rows[3:]
