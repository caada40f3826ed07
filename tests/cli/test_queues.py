"""`callgate queues` sets, shows, pauses and lists queues."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, failure, run
from tests.support.gateway import SECRET_KEY


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
    assert [event["changed"] for event in actions if event["action"] == "queue.update"] == [
        ["paused"],
        ["paused"],
        ["calls_per_second", "burst", "max_concurrent"],
        ["hours", "ring_within_s"],
        ["max_concurrent"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "shop", "nothing"), "has no queue 'nothing'"),
        (("pause", "shop", "nothing"), "has no queue 'nothing'"),
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
