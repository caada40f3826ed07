"""`callgate queues` sets, shows, pauses and lists queues."""

import asyncio
import json
import signal
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from app.errors import TenantSuspended
from tests.cli.running import ACCEPT_CTRL_C, CALLGATE, DEADLINE_S, environment, failure, run
from tests.support.gateway import BASIC_CALL, SECRET_KEY, running_gateway, settings_for
from tests.support.tcp import running_proxy


@pytest.fixture
def configured(database_url: str, tmp_path: Path) -> dict[str, str]:
    values = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    run("tenants", "create", "shop", "--name", "Shop", environment=values)
    return values


def test_a_queue_is_set_shown_paused_and_listed(configured: dict[str, str]) -> None:
    def queues(*arguments: str) -> Any:
        finished = run("queues", *arguments, "--json", environment=configured)
        assert (finished.returncode, finished.stderr) == (0, "")
        return json.loads(finished.stdout)

    hours = ("--time-zone", "Europe/Berlin", "--day", "mon", "--day", "tue", "--from", "09:00", "--to", "20:00")
    pace = ("--calls-per-second", "0.5", "--burst", "5", "--max-concurrent", "10")
    made = queues("set", "shop", "reminders", *pace, *hours, "--ring-within", "30m")
    assert made == {
        "name": "reminders",
        "tenant": "shop",
        "paused": False,
        "calls_per_second": 0.5,
        "burst": 5,
        "max_concurrent": 10,
        "hours": "09:00-20:00 mon,tue Europe/Berlin",
        "ring_within_s": 1800,
    }
    assert queues("set", "shop", "reminders", "--max-concurrent", "3") == made | {"max_concurrent": 3}
    cleared = queues("set", "shop", "reminders", "--clear", "hours", "--clear", "ring-within")
    assert cleared == made | {"max_concurrent": 3, "hours": None, "ring_within_s": None}
    unlimited = queues("set", "shop", "reminders", "--unlimited", "--max-concurrent", "4")
    assert unlimited == cleared | {"calls_per_second": None, "burst": 2, "max_concurrent": 4}
    assert queues("pause", "shop", "reminders")["paused"] is True
    shown = queues("show", "shop", "reminders")
    assert (shown["paused"], shown["waiting"], shown["wait_reason"]) == (True, 0, None)
    assert shown["counts"] == {"execution": {}, "status": {}, "problem": {}}
    assert queues("resume", "shop", "reminders")["paused"] is False
    queues("set", "shop", "another")
    assert [row["name"] for row in queues("list", "shop")] == ["another", "reminders"]
    actions = json.loads(run("audit", "shop", "--json", environment=configured).stdout)
    assert [event["action"] for event in actions][:3] == ["queue.create", "queue.resume", "queue.pause"]
    assert [event["changed"] for event in actions if event["action"] == "queue.update"] == [
        ["calls_per_second", "burst", "max_concurrent"],
        ["hours", "ring_within_s"],
        ["max_concurrent"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "shop", "nothing"), "has no queue 'nothing'"),
        (("pause", "shop", "nothing"), "has no queue 'nothing'"),
        (("cancel", "shop", "nothing"), "has no queue 'nothing'"),
        (("add", "shop", "nothing", "-"), "has no queue 'nothing'"),
        (("add", "nobody", "nothing", "-"), "there is no tenant nobody"),
        (("list", "nobody"), "there is no tenant nobody"),
        (("set", "nobody", "q"), "there is no tenant nobody"),
        (("set", "shop", "a b"), "not a name of a queue"),
        (("set", "shop", "q", "--calls-per-second", "0"), "calls per second are more than 0"),
        (("set", "shop", "q", "--calls-per-second", "nan"), "calls per second are more than 0"),
        (("set", "shop", "q", "--burst", "5"), "a burst needs calls_per_second"),
        (("set", "shop", "q", "--max-concurrent", "0"), "between 1 and"),
        (("set", "shop", "q", "--ring-within", "8d"), "between 1 and 604800 seconds"),
        (("set", "shop", "q", "--from", "09:00"), "--"),
    ],
)
def test_failures_say_what_to_do_in_one_line(configured: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    code, said = failure("queues", *arguments, environment=configured)
    assert code == 1
    assert message in said


async def test_a_file_of_calls_is_added_and_canceled(configured: dict[str, str], database_url: str, tmp_path: Path) -> None:
    async with running_gateway(settings_for(database_url)) as gateway:
        tenant = await gateway.add_tenant()
    run("queues", "set", tenant.id, "reminders", environment=configured)
    lines = [json.dumps({"key": f"k-{number}"} | BASIC_CALL) for number in range(1_500)]
    file = tmp_path / "calls.ndjson"
    file.write_text("\n".join(lines))

    def add(source: str, standard_input: str = "") -> tuple[int, dict[str, Any], str]:
        command = ("queues", "add", tenant.id, "reminders", source, "--json")
        finished = run(*command, environment=configured, standard_input=standard_input)
        return finished.returncode, json.loads(finished.stdout), finished.stderr

    none = {"created": 0, "replayed": 0, "unknown": 0, "refused": 0, "problems": {}}
    assert add(str(file)) == (0, none | {"created": 1_500}, "")
    assert add(str(file)) == (0, none | {"replayed": 1_500}, "")
    bad = [lines[0], json.dumps({"key": "bad", "to": "nobody", "from": "Jack", "url": BASIC_CALL["url"]}), "", "{"]
    code, summary, said = add("-", "\n".join(bad))
    assert (code, summary) == (
        1,
        none | {"replayed": 1, "refused": 2, "problems": {"invalid-request": 1, "malformed-body": 1}},
    )
    assert [line.partition(": ")[0] for line in said.splitlines()] == ["line 2", "line 4"]
    assert "invalid-request: /to must be a SIP URI" in said
    text = run("queues", "add", tenant.id, "reminders", str(file), environment=configured).stdout
    assert text.split() == ["created", "0", "replayed", "1500", "unknown", "0", "refused", "0"]

    code, said = failure("queues", "add", tenant.id, "reminders", str(tmp_path / "none"), environment=configured)
    assert (code, said) == (1, f"callgate: {tmp_path / 'none'}: cannot be read: No such file or directory")

    canceled = run("queues", "cancel", tenant.id, "reminders", "--json", environment=configured)
    assert json.loads(canceled.stdout) == {"queue": "reminders", "canceled": 1_500}


async def _tenant_and_command(
    configured: dict[str, str], database_url: str, tmp_path: Path, *, key: str
) -> tuple[str, Sequence[str]]:
    """Adds a tenant with the queue `reminders`.

    Returns the tenant's id, and a command that adds a file with one call, whose key is `key`, and one line that is refused.
    """
    async with running_gateway(settings_for(database_url)) as gateway:
        tenant = await gateway.add_tenant()
    run("queues", "set", tenant.id, "reminders", environment=configured)
    file = tmp_path / "calls.ndjson"
    file.write_text(json.dumps({"key": key} | BASIC_CALL) + "\n{")
    return tenant.id, ("queues", "add", tenant.id, "reminders", str(file), "--json")


async def test_a_line_that_postgres_has_not_confirmed_is_counted_and_the_file_can_be_added_again(
    configured: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    _, command = await _tenant_and_command(configured, database_url, tmp_path, key="cut-in-doubt")
    url = make_url(database_url)
    async with running_proxy(url.host or "", url.port or 5432) as proxy:
        behind = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        proxy.hold(b"cut-in-doubt")
        cut = await asyncio.to_thread(run, *command, environment=configured | {"CALLGATE_DATABASE_URL": behind})
    refused = {"created": 0, "replayed": 0, "unknown": 0, "refused": 1, "problems": {"malformed-body": 1}}
    assert (cut.returncode, json.loads(cut.stdout)) == (3, refused | {"unknown": 1})
    again = run(*command, environment=configured)
    # The command has written the call before its end.
    assert (again.returncode, json.loads(again.stdout)) == (1, refused | {"replayed": 1})


async def test_lines_of_a_pipe_are_added_as_they_arrive_and_ctrl_c_ends_the_command(
    configured: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    tenant_id, command = await _tenant_and_command(configured, database_url, tmp_path, key="first")
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))

    async def wait_for_calls(number: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await connection.fetchval("SELECT count(*) FROM call WHERE tenant_id = $1", tenant_id) != number:
                await asyncio.sleep(0.05)

    for number, key in enumerate(("first", "second"), start=1):
        adding = await asyncio.create_subprocess_exec(
            *ACCEPT_CTRL_C, CALLGATE, *command[:4], "-", env=configured, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert adding.stdin
        try:
            adding.stdin.write(json.dumps({"key": key} | BASIC_CALL).encode() + b"\n{")
            await wait_for_calls(number)
            if key == "first":
                output, errors = await adding.communicate(b"}")
                assert output.split()[:2] == [b"created", b"1"]
                assert errors.startswith(b"line 2: invalid-request: /key")
            else:
                adding.send_signal(signal.SIGINT)
                async with asyncio.timeout(20):
                    assert (await adding.wait(), await adding.stderr.read() if adding.stderr else b"") == (130, b"")
        finally:
            if adding.returncode is None:
                adding.kill()
    await connection.close()


async def test_a_line_whose_call_is_being_placed_can_be_added_again(
    configured: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    tenant_id, command = await _tenant_and_command(configured, database_url, tmp_path, key="placed-now")
    assert run(*command, environment=configured).returncode == 1
    async with running_gateway(settings_for(database_url)) as gateway:
        await gateway.database.fetch("UPDATE call SET execution = 'pending' WHERE tenant_id = $1", tenant_id)
    again = run(*command, environment=configured)
    assert (again.returncode, json.loads(again.stdout)["problems"]) == (3, {"call-pending": 1, "malformed-body": 1})


async def test_calls_of_a_suspended_tenant_are_refused_by_line(
    configured: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    tenant_id, command = await _tenant_and_command(configured, database_url, tmp_path, key="k")
    run("tenants", "suspend", tenant_id, environment=configured)
    finished = run(*command, environment=configured)
    assert finished.returncode == 1
    assert finished.stderr.startswith("line 1: tenant-suspended: " + TenantSuspended.default_detail + "\n")
