"""`callgate accounts pace` sets, shows and removes an account's limits of calls. `accounts list` shows the limits."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import environment, failure, run
from tests.support.gateway import SECRET_KEY, Gateway, Tenant


class Commands:
    """Runs `callgate accounts pace` on the account of one tenant."""

    def __init__(self, tenant: Tenant, settings: dict[str, str]) -> None:
        self.tenant = tenant
        self.settings = settings

    def pace(self, *options: str) -> list[Any]:
        finished = run("accounts", "pace", *self.account, *options, "--json", environment=self.settings)
        assert finished.returncode == 0, finished.stderr
        shown = json.loads(finished.stdout)
        assert (shown["tenant"], shown["account_sid"]) == self.account
        return [shown[name] for name in ("calls_per_second", "burst", "max_concurrent")]

    def refused(self, *options: str) -> str:
        code, message = failure("accounts", "pace", *self.account, *options, environment=self.settings)
        assert code == 1
        return message

    @property
    def account(self) -> tuple[str, str]:
        return self.tenant.id, self.tenant.account_sid


@pytest.fixture
async def commands(gateway: Gateway, database_url: str, tmp_path: Path) -> Commands:
    settings = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    return Commands(await gateway.add_tenant(), settings)


def test_a_pace_is_shown_changed_and_removed(commands: Commands) -> None:
    assert commands.pace() == [None, 2, None]
    assert commands.pace("--calls-per-second", "0.125", "--burst", "5") == [0.125, 5, None]
    assert commands.pace("--max-concurrent", "10") == [0.125, 5, 10]
    assert commands.pace() == [0.125, 5, 10]
    assert commands.pace("--unlimited", "--calls-per-second", "1.000") == [1, 2, None]
    assert commands.pace("--unlimited", "--max-concurrent", "10") == [None, 2, 10]
    assert commands.pace("--unlimited") == [None, 2, None]


def test_the_list_of_accounts_shows_the_pace(commands: Commands) -> None:
    def listed(*options: str) -> str:
        return run("accounts", "list", commands.tenant.id, *options, environment=commands.settings).stdout

    assert json.loads(listed("--json"))[0]["pace"] is None
    commands.pace("--calls-per-second", "0.5", "--max-concurrent", "10")
    assert json.loads(listed("--json"))[0]["pace"] == {"calls_per_second": 0.5, "burst": 2, "max_concurrent": 10}
    assert "  0.5/s, burst 2, 10 at once  " in listed()
    commands.pace("--unlimited", "--max-concurrent", "3")
    assert "  3 at once  " in listed()


def test_a_pace_out_of_bounds_is_refused_in_one_line(commands: Commands) -> None:
    bounds = "calls per second are more than 0, at most 1000, with at most 3 decimals"
    for rate in ("0", "-1", "1000.1", "0.0001", "NaN", "1e400"):
        assert commands.refused("--calls-per-second", rate) == f"callgate: {bounds}"
    assert commands.refused("--burst", "5") == "callgate: a burst needs calls_per_second"
    assert commands.refused("--burst", "1001", "--calls-per-second", "1") == "callgate: a burst is between 1 and 1000"
    message = "callgate: the limit of concurrent calls is between 1 and 100000"
    assert commands.refused("--max-concurrent", str(10**30)) == message
    assert commands.pace() == [None, 2, None]


def test_an_account_that_does_not_exist_is_named(commands: Commands) -> None:
    commands.tenant.account_sid = "AC" + "9" * 32
    advice = "see `callgate accounts list`"
    assert commands.refused() == f"callgate: tenant {commands.tenant.id} has no account {commands.tenant.account_sid}: {advice}"
