"""`callgate rehearse`: what becomes of each call of a file, by the worker's own grants, without a dial."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, failure, run
from tests.support.gateway import SECRET_KEY

MONDAY = "2026-11-30T08:00:00Z"


def line(key: str, **members: Any) -> str:
    return json.dumps({"key": key, "to": "sip:kate@example.com", "from": "Jack", "url": "https://example.com/x"} | members)


def rehearsed(tmp_path: Path, lines: list[str], *options: str, **settings: str) -> Any:
    (tmp_path / "calls.ndjson").write_text("\n".join(lines))
    arguments = ("rehearse", str(tmp_path / "calls.ndjson"), "--at", MONDAY, "--json", *options)
    finished = run(*arguments, environment=environment(tmp_path, **settings))
    assert (finished.returncode, finished.stderr) == (0, "")
    return json.loads(finished.stdout)


def outcomes(result: Any) -> dict[str, tuple[str, str]]:
    """Returns the outcome and the time of day (UTC) of each call by its key."""
    return {call["key"]: (call["outcome"], call["at"] and call["at"][11:19]) for call in result["calls"]}


def test_what_does_not_ring_in_time_expires_and_urgent_calls_go_first(tmp_path: Path) -> None:
    classes = ("bulk", "normal", "urgent")
    lines = [line(f"{classes[n % 3]}-{n}", priority=classes[n % 3], ring_by="2026-11-30T08:00:30Z") for n in range(100)]
    result = rehearsed(tmp_path, lines, "--calls-per-second", "1")
    assert (result["rings"], result["expires"], result["refused"], result["most_in_a_second"]) == (31, 69, 0, 2)
    ringing = [call for call in result["calls"] if call["outcome"] == "rings"]
    assert result["calls"][:31] == ringing
    # Of 33 urgent calls all 31 that ring: a burst of two, then one in each second.
    assert {call["priority"] for call in ringing} == {"urgent"}
    assert [call["wait_s"] for call in ringing] == [0, 0, *range(1, 30)]
    assert {call["at"] for call in result["calls"] if call["outcome"] == "expires"} == {"2026-11-30T08:00:30+00:00"}
    assert 1 < result["calls_per_second"] < 1.04


def test_a_call_waits_for_its_time_and_for_the_end_of_another(tmp_path: Path) -> None:
    lines = [line("first"), line("second"), line("later", not_before="2026-11-30T09:00:00Z")]
    result = rehearsed(tmp_path, lines, "--max-concurrent", "1", "--call-seconds", "90")
    expected = {"first": ("rings", "08:00:00"), "second": ("rings", "08:01:30"), "later": ("rings", "09:00:00")}
    assert (outcomes(result), result["most_under_way"]) == (expected, 1)


def test_wrong_lines_are_refused_one_by_one(tmp_path: Path) -> None:
    past = {"ring_by": "2026-11-30T07:00:00Z"}
    lines = [line("good"), "", "nonsense", "[]", line(""), line("good"), line("past", **past), line("other", queue="x")]
    result = rehearsed(tmp_path, lines)
    assert (result["rings"], result["refused"]) == (1, 6)
    refused = {call["line"]: call["reason"] for call in result["calls"] if call["outcome"] == "refused"}
    assert refused[3].startswith("The line is not valid JSON: ")
    assert refused[6] == "/key is that of line 1"
    assert refused[7] == "/ring_by must be in the future"
    assert refused[8] == "/queue must be rehearsal, or be left out"


def test_the_settings_are_those_of_the_queue_and_its_tenant_and_nothing_is_stored(tmp_path: Path, database_url: str) -> None:
    settings = {"CALLGATE_DATABASE_URL": database_url, "CALLGATE_SECRET_KEYS": SECRET_KEY}

    def made(*arguments: str) -> str:
        finished = run(*arguments, environment=environment(tmp_path, **settings))
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    made("tenants", "create", "shop", "--name", "Shop")
    made("tenants", "hours", "shop", "--time-zone", "Europe/Berlin", "--from", "10:00", "--to", "18:00")
    made("queues", "set", "shop", "reminders", "--calls-per-second", "0.1", "--burst", "1", "--ring-within", "2h")
    # In Berlin it is 09:00, in New York 03:00.
    lines = [line("a"), line("b"), line("far", time_zone="America/New_York"), line("urgent", priority="urgent")]
    result = rehearsed(tmp_path, lines, "--queue", "reminders", **settings)
    assert outcomes(result) == {
        "urgent": ("rings", "09:00:00"),
        "a": ("rings", "09:00:10"),
        "b": ("rings", "09:00:20"),
        "far": ("refused", None),
    }
    faster = rehearsed(tmp_path, lines, "--queue", "reminders", "--calls-per-second", "1", **settings)
    assert outcomes(faster)["b"] == ("rings", "09:00:02")
    assert json.loads(made("queues", "show", "shop", "reminders", "--json"))["calls_per_second"] in (0.1, "0.1")

    made("tenants", "create", "other", "--name", "Other")
    made("queues", "set", "other", "reminders")
    arguments = ("rehearse", str(tmp_path / "calls.ndjson"), "--queue")
    configured = environment(tmp_path, **settings)
    several = "callgate: several tenants have a queue 'reminders': give --tenant"
    assert failure(*arguments, "reminders", environment=configured) == (1, several)
    assert failure(*arguments, "none", environment=configured)[1].startswith("callgate: there is no queue 'none'")
    of_other = rehearsed(tmp_path, lines, "--queue", "reminders", "--tenant", "other", **settings)
    assert set(outcomes(of_other).values()) == {("rings", "08:00:00")}


@pytest.mark.parametrize("options", [("--calls-per-second", "0"), ("--burst", "5")])
def test_a_wrong_pace_is_refused(tmp_path: Path, options: tuple[str, str]) -> None:
    (tmp_path / "calls.ndjson").write_text(line("a"))
    code, _ = failure("rehearse", str(tmp_path / "calls.ndjson"), *options, environment=environment(tmp_path))
    assert code == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.ndjson")
    expected = f"callgate: {missing}: cannot be read: No such file or directory"
    assert failure("rehearse", missing, environment=environment(tmp_path)) == (1, expected)
