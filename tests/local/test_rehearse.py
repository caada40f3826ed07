"""Tests `callgate rehearse`: the command predicts what happens to each call of a file. The simulator stands in for Twilio."""

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, failure, run, running, wait_until
from tests.support.gateway import SECRET_KEY
from tests.support.upstream import refused_url

MONDAY = "2026-11-30T08:00:00Z"


def line(key: str, **members: Any) -> str:
    return json.dumps({"key": key, "to": "sip:kate@example.com", "from": "Jack", "url": "https://example.com/x"} | members)


# Twilio's pace is faster than the queue's, which decides.
FAST = ("--twilio-calls-per-second", "100")


def rehearsed(tmp_path: Path, lines: list[str], *options: str, exit_code: int = 0, **settings: Any) -> Any:
    (tmp_path / "calls.ndjson").write_text("\n".join(lines))
    arguments = ("rehearse", str(tmp_path / "calls.ndjson"), "--at", MONDAY, "--json", *options)
    finished = run(*arguments, environment=environment(tmp_path, **settings))
    assert (finished.returncode, finished.stderr) == (exit_code, "")
    return json.loads(finished.stdout)


def outcomes(result: Any) -> dict[str, tuple[str, str]]:
    """Returns the outcome and the time of day (UTC) of each call, by the call's key."""
    return {call["key"]: (call["outcome"], call["at"] and call["at"][11:19]) for call in result["calls"]}


def by_key(result: Any) -> dict[str, Any]:
    """Returns the calls by key. A redial has the key of its first call and a number, such as `key/1`."""
    return {call["key"] + (f"/{call['redial']}" if call["redial"] else ""): call for call in result["calls"]}


def test_what_does_not_ring_in_time_expires_and_urgent_calls_go_first(tmp_path: Path) -> None:
    classes = ("bulk", "normal", "urgent")
    lines = [line(f"{classes[n % 3]}-{n}", priority=classes[n % 3], ring_by="2026-11-30T08:00:30Z") for n in range(100)]
    result = rehearsed(tmp_path, lines, "--calls-per-second", "1", *FAST)
    assert (result["rings"], result["expires"], result["refused"], result["most_in_a_second"]) == (31, 69, 0, 2)
    ringing = [call for call in result["calls"] if call["outcome"] == "rings"]
    assert result["calls"][:31] == ringing
    # Of 33 urgent calls all 31 that ring: a burst of two, then one in each second. Twilio needs a second to dial.
    assert {call["priority"] for call in ringing} == {"urgent"}
    assert [call["wait_s"] for call in ringing] == [1, 1.01, *range(2, 31)]
    assert {call["at"] for call in result["calls"] if call["outcome"] == "expires"} == {"2026-11-30T08:00:30+00:00"}
    assert 1 < result["calls_per_second"] < 1.04


def test_twilio_queues_what_exceeds_its_rate_and_what_it_still_holds_at_ring_by_does_not_ring(tmp_path: Path) -> None:
    lines = [line(f"o-{n}", ring_by="2026-11-30T08:00:03Z") for n in range(5)]
    result = rehearsed(tmp_path, lines)
    calls = by_key(result)
    assert [(calls[f"o-{n}"]["outcome"], calls[f"o-{n}"]["queue_s"]) for n in range(5)] == [
        ("rings", 0),
        ("rings", 1),
        ("rings", 2),
        ("expires", 3),
        ("expires", 4),
    ]
    assert calls["o-2"]["reason"] == "Twilio would queue it for 2 s"
    assert calls["o-4"]["reason"] == "Twilio would queue it for 4 s; it is canceled there at ring_by"
    assert (calls["o-4"]["at"], calls["o-4"]["status"]) == ("2026-11-30T08:00:03+00:00", "canceled")
    assert (result["queued_by_twilio"], result["longest_queue_s"], result["most_in_a_second"]) == (4, 4, 1)
    # The same file has the same result, to the millisecond. A proxy of the environment gets no calls.
    assert rehearsed(tmp_path, lines, ALL_PROXY=refused_url()) == result


def test_calls_end_as_the_simulator_ends_them_and_are_dialled_again(tmp_path: Path) -> None:
    redial = {"on": ["busy"], "times": 2, "after_s": 120}
    lines = [line(user, to=f"sip:{user}@example.com", redial=redial, timeout=20) for user in ("busy", "no-answer", "failed")]
    result = rehearsed(tmp_path, lines, *FAST)
    calls = by_key(result)
    assert {key: (call["outcome"], call["status"], call["at"][11:19]) for key, call in calls.items()} == {
        "busy": ("rings", "busy", "08:00:01"),
        "busy/1": ("rings", "busy", "08:02:03"),
        "busy/2": ("rings", "busy", "08:04:05"),
        "no-answer": ("rings", "no-answer", "08:00:01"),
        "failed": ("fails", "failed", "08:00:01"),
    }
    assert calls["no-answer"]["ended_at"] == "2026-11-30T08:00:21+00:00"
    assert (result["busy"], result["no_answer"], result["fails"], result["redials"]) == (3, 1, 1, 2)


def test_a_call_that_twilio_refuses_for_the_moment_waits_again(tmp_path: Path) -> None:
    lines = [line("first", to="sip:busy@example.com"), line("second")]
    result = rehearsed(tmp_path, lines, *FAST, "--twilio-max-concurrent", "1")
    second = by_key(result)["second"]
    # The first one is under way for two seconds. The second is tried after 0, 1 and 1 + 2 seconds.
    assert (second["dialled_at"], second["put_back"]) == ("2026-11-30T08:00:03+00:00", 2)
    assert second["reason"] == "Twilio would refuse it 2 times for the moment"


def test_a_call_waits_for_its_time_and_for_the_end_of_another(tmp_path: Path) -> None:
    lines = [line("first", to="sip:no-answer@example.com", timeout=30), line("second"), line("third")]
    lines += [line("later", not_before="2026-11-30T09:00:00Z")]
    result = rehearsed(tmp_path, lines, "--max-concurrent", "1", "--call-seconds", "90")
    calls = by_key(result)
    assert (outcomes(result)["first"], outcomes(result)["second"]) == (("rings", "08:00:01"), ("rings", "08:00:32"))
    # It is dialled at the moment at which the one before it ends.
    assert calls["third"]["dialled_at"] == calls["second"]["ended_at"]
    assert (outcomes(result)["later"], result["most_under_way"]) == (("rings", "09:00:01"), 1)


def test_settings_in_the_environment_do_not_matter_without_a_database(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"CALLGATE_LOG_LEVEL": "loud", "CALLGATE_TWILIO_READ_TIMEOUT": "-1"}
    assert rehearsed(tmp_path, [line("a")], **settings)["rings"] == 1
    file = str(tmp_path / "calls.ndjson")
    code, message = failure("rehearse", file, "--queue", "q", environment=environment(tmp_path, **settings))
    assert code == 2
    assert "wrong settings: CALLGATE_TWILIO_READ_TIMEOUT" in message
    assert "CALLGATE_LOG_LEVEL" in message


def test_wrong_lines_are_refused_one_by_one(tmp_path: Path) -> None:
    past = {"ring_by": "2026-11-30T07:00:00Z"}
    lines = [line("good"), "", "nonsense", "[]", line(""), line("good"), line("past", **past), line("other", queue="x")]
    lines += [line("no-such-place", to="sip:x@example.com:99999999")]
    result = rehearsed(tmp_path, lines, exit_code=1)
    assert (result["rings"], result["refused"]) == (1, 7)
    refused = {call["line"]: call["reason"] for call in result["calls"] if call["outcome"] == "refused"}
    assert refused[3].startswith("The line is not valid JSON: ")
    assert refused[6] == "/key is that of line 1"
    assert refused[7] == "/ring_by must be in the future"
    assert refused[8] == "/queue must be rehearsal, or be left out"


def test_the_settings_are_those_of_the_queue_and_its_tenant_and_nothing_is_stored(tmp_path: Path, database_url: str) -> None:
    settings: dict[str, Any] = {"CALLGATE_DATABASE_URL": database_url, "CALLGATE_SECRET_KEYS": SECRET_KEY}

    def made(*arguments: str) -> str:
        finished = run(*arguments, environment=environment(tmp_path, **settings))
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    made("tenants", "create", "shop", "--name", "Shop")
    made("tenants", "hours", "shop", "--time-zone", "Europe/Berlin", "--from", "10:00", "--to", "18:00")
    made("queues", "set", "shop", "reminders", "--calls-per-second", "0.1", "--burst", "1", "--ring-within", "2h")
    # In Berlin it is 09:00, in New York 03:00.
    lines = [line("a"), line("b"), line("far", time_zone="America/New_York"), line("urgent", priority="urgent")]
    result = rehearsed(tmp_path, lines, "--queue", "reminders", exit_code=1, **settings)
    assert outcomes(result) == {
        "urgent": ("rings", "09:00:01"),
        "a": ("rings", "09:00:11"),
        "b": ("rings", "09:00:21"),
        "far": ("refused", None),
    }
    faster = rehearsed(tmp_path, lines, "--queue", "reminders", "--calls-per-second", "1", exit_code=1, **settings)
    assert outcomes(faster)["b"] == ("rings", "09:00:03")
    assert json.loads(made("queues", "show", "shop", "reminders", "--json"))["calls_per_second"] in (0.1, "0.1")

    made("tenants", "create", "other", "--name", "Other")
    made("queues", "set", "other", "reminders")
    arguments = ("rehearse", str(tmp_path / "calls.ndjson"), "--queue")
    configured = environment(tmp_path, **settings)
    several = "callgate: several tenants have a queue 'reminders': give --tenant"
    assert failure(*arguments, "reminders", environment=configured) == (1, several)
    assert failure(*arguments, "none", environment=configured)[1].startswith("callgate: there is no queue 'none'")
    of_other = rehearsed(tmp_path, lines, "--queue", "reminders", "--tenant", "other", *FAST, **settings)
    assert set(outcomes(of_other).values()) == {("rings", "08:00:01")}


@pytest.mark.parametrize("options", [("--calls-per-second", "0"), ("--burst", "5")])
def test_a_wrong_pace_is_refused(tmp_path: Path, options: tuple[str, str]) -> None:
    (tmp_path / "calls.ndjson").write_text(line("a"))
    code, _ = failure("rehearse", str(tmp_path / "calls.ndjson"), *options, environment=environment(tmp_path))
    assert code == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.ndjson")
    expected = f"callgate: {missing}: cannot be read: No such file or directory"
    assert failure("rehearse", missing, environment=environment(tmp_path)) == (1, expected)


@pytest.mark.parametrize("at", ["1900-01-01T00:00:00Z", "9999-12-31T23:59:00Z"])
def test_a_time_that_cannot_be_played_is_refused(tmp_path: Path, at: str) -> None:
    (tmp_path / "calls.ndjson").write_text(line("a"))
    arguments = ("rehearse", str(tmp_path / "calls.ndjson"), "--at", at)
    expected = "callgate: --at: the year must be between 1970 and 8999"
    assert failure(*arguments, environment=environment(tmp_path)) == (1, expected)


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    expected = "callgate: /dev/zero: is larger than 256 MiB"
    assert failure("rehearse", "/dev/zero", environment=environment(tmp_path)) == (1, expected)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files that the user `nobody` can also read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def is_creating_database(scratch: Path) -> bool:
    return any(scratch.glob("*/postgres/data.new/global"))


def is_starting_database(scratch: Path) -> bool:
    return any(scratch.glob("*/postgres/data/postmaster.pid"))


def is_playing(scratch: Path) -> bool:
    """Returns whether the rehearsal has begun. Postgres then has three sessions, and only two while migrations run."""
    servers = [read(file).split()[:1] for file in scratch.glob("*/postgres/data/postmaster.pid")]
    sessions = [
        each for each in Path("/proc").glob("[0-9]*") if read(each / "cmdline").startswith(b"postgres: callgate callgate ")
    ]
    # The fourth field of `stat` is the parent; the name before it has no spaces.
    return sum(read(each / "stat").split()[3:4] in servers for each in sessions) > 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("step", [is_creating_database, is_starting_database, is_playing])
def test_an_interrupted_rehearsal_leaves_nothing(
    tmp_path: Path, scratch: Path, number: signal.Signals, code: int, step: Callable[[Path], bool]
) -> None:
    (tmp_path / "calls.ndjson").write_text("\n".join(line(f"o-{n}") for n in range(2_000)))
    arguments = ("rehearse", str(tmp_path / "calls.ndjson"), "--calls-per-second", "100")
    configured = environment(tmp_path, TMPDIR=str(scratch))
    with running(*arguments, environment=configured, file=tmp_path / "output") as process:
        wait_until(lambda: step(scratch), "the step")
        assert process.end(number) == code, process.output
        assert process.output.strip() in ("", "Aborted!")
    assert list(scratch.iterdir()) == []
    assert [each for each in Path("/proc").glob("[0-9]*/cmdline") if str(scratch).encode() in read(each)] == []


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
