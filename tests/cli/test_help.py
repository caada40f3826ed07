"""Every command has help and refuses wrong usage. The tests parse arguments only and run no command."""

from collections.abc import Iterator

import pytest
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command
from typer.testing import CliRunner

from app.cli import app


def commands(group: TyperGroup, path: str) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path} {name}")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{path} {name}", command


callgate = get_command(app)
assert isinstance(callgate, TyperGroup)
COMMANDS = dict(commands(callgate, "callgate"))
COMMANDS_WITH_OUTPUT = [
    name for name in COMMANDS if name.split()[1] in ("tenants", "accounts", "keys", "secrets", "doctor", "workloads", "audit")
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.get_short_help_str().endswith("."), "the first sentence fits into the list of commands"
    for parameter in command.params:
        assert isinstance(parameter, TyperArgument | TyperOption)
        assert parameter.help, parameter.name


@pytest.mark.parametrize("name", COMMANDS_WITH_OUTPUT)
def test_commands_with_output_can_print_json(name: str) -> None:
    assert "as_json" in {parameter.name for parameter in COMMANDS[name].params}


@pytest.mark.parametrize(
    "arguments",
    [
        ["tenants"],
        ["tenants", "create"],
        ["tenants", "erase", "x"],
        ["accounts", "add", "x", "--auth-token", "planted"],
        ["accounts", "add", "x", "--account-sid", "AC0", "--base-url", "api.dublin.ie1.twilio.com"],
        ["accounts", "add", "x", "--account-sid", "AC0", "--base-url", "https://api.twilio.com/2010-04-01/Accounts"],
        ["accounts", "add", "x", "--account-sid", "AC0", "--base-url", "https://api.twilio.com:twilio"],
        ["accounts", "revoke", "x", "y"],
        ["accounts", "pace", "x", "AC0", "--calls-per-second", "fast"],
        ["accounts", "pace", "x", "AC0", "--burst", "1.5"],
        ["keys", "create", "x", "--format", "twillio"],
        ["audit", "--since", "yesterday"],
        ["audit", "--since", "0001-01-01T00:00:00+14:00"],
        ["keys", "create", "x", "--expires", "9999-12-31T23:59:59-12:00"],
        ["audit", "--cursor", "x"],
        ["keys", "create", "x", "--scope", "write"],
        ["keys", "create"],
        ["keys", "create", "x", "--operator"],
        ["keys", "list", "x", "--operator"],
        ["keys", "create", "x", "--expires", "tomorrow"],
        ["keys", "create", "x", "--expires", ""],
        ["keys", "create", "x", "--expires", "99999999999d"],
        ["keys", "create", "x", "--expires", "2020-01-01T00:00:00Z"],
        ["accounts", "rotate", "x", "AC0", "--quiet", "3000000d"],
        ["dev", "--port", "65536"],
        ["serve", "--workers", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_refused_with_advice(arguments: list[str]) -> None:
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert refused.output.startswith("Usage: ")
    assert refused.stdout == "" or len(arguments) == 1
