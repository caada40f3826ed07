"""`callgate tenants hours` sets, shows and removes the hours of the day in which a tenant's scheduled calls may ring."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, failure, run
from tests.support.gateway import SECRET_KEY

OFFICE = ("--time-zone", "Europe/Berlin", "--from", "09:00", "--to", "18:00")


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> dict[str, str]:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    run("tenants", "create", "acme", "--name", "Acme", environment=configured)
    return configured


def ran(*arguments: str, settings: dict[str, str]) -> Any:
    finished = run(*arguments, "--json", environment=settings)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_hours_are_set_shown_and_removed(settings: dict[str, str]) -> None:
    def hours(*options: str) -> Any:
        return ran("tenants", "hours", "acme", *options, settings=settings)

    none = {"tenant": "acme", "time_zone": None, "days": None, "from": None, "to": None}
    assert hours("--clear") == none
    weekend = hours(*OFFICE, "--day", "sun", "--day", "sat")
    assert weekend == {"tenant": "acme", "time_zone": "Europe/Berlin", "days": ["sat", "sun"], "from": "09:00", "to": "18:00"}
    assert hours() == weekend
    assert hours(*OFFICE)["days"] == ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    assert hours("--clear") == hours() == none
    events = ran("audit", "acme", settings=settings)
    assert [event["changed"] for event in events if "hours" in event["changed"]] == [["hours"]] * 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--from", "09:00", "--to", "18:00"], "--time-zone is required"),
        (["--day", "mon"], "--time-zone is required"),
        ([*OFFICE, "--to", "09:00"], "--to must differ from --from: a whole day is from 00:00 to 24:00"),
        ([*OFFICE, "--time-zone", "CEST"], "--time-zone must be a zone of the IANA database, such as Europe/Berlin"),
        ([*OFFICE, "--day", "mon", "--day", "mon"], "--day is in the list already"),
        ([*OFFICE, "--clear"], "--clear removes the hours: give it alone"),
    ],
)
def test_wrong_hours_are_refused_by_option_and_change_nothing(
    settings: dict[str, str], options: list[str], reason: str
) -> None:
    before = ran("tenants", "hours", "acme", settings=settings)
    assert failure("tenants", "hours", "acme", *options, environment=settings) == (1, f"callgate: {reason}")
    assert ran("tenants", "hours", "acme", settings=settings) == before
