"""Tests that the docs are true: printed commands get the printed answers, settings and errors are listed, links are valid."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from app import __version__
from app.cli import app as command_line
from app.errors import error_classes_by_slug
from app.setting_values import SETTING_PREFIX
from app.settings import Settings
from app.tenants.caller import COMMAND_LINE_CALLER
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.gateway import Gateway, Tenant, running_app
from tests.support.tools import needs_program

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
ADMINISTRATION = (ROOT / "docs" / "administration.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
QUEUES = (ROOT / "docs" / "queues.md").read_text()
ERRORS = (ROOT / "docs" / "errors.md").read_text()
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
PRINTED_URL = "http://127.0.0.1:8000"
# These differ in each run. Everything else must be answered as printed.
_VOLATILE = {"id", "sid", "call_id", "request_id", "at", "credential", "milliseconds", "next_cursor", "key"}
_PROGRESS = {"status", "start_time", "end_time", "duration", "price"}


class Example(NamedTuple):
    """A command in the docs and the answer that is printed below it. In the answer, a line `…` stands for omitted members."""

    command: str
    status: int
    headers: dict[str, str]
    shown: dict[str, Any]


def examples() -> list[Example]:
    """Returns the examples of the README's section *Place a call*, and then those of docs/api.md."""
    return examples_in(README.split("\n## Place a call\n")[1].split("\n## ")[0] + API)


def examples_in(text: str) -> list[Example]:
    pairs = re.findall(r"```sh\n(.*?)```\n+```http\n(.*?)```", text, re.DOTALL)
    assert len(pairs) == text.count("```sh") == text.count("```http")
    return [_example(command, answer) for command, answer in pairs]


def _example(command: str, answer: str) -> Example:
    head, body = answer.split("\n\n", 1)
    status, *headers = [line for line in head.splitlines() if line != "…"]
    items = re.sub(r"^…$(?=\s*\])", '"…"', body, flags=re.MULTILINE)
    members = re.sub(r",\s*}", "}", re.sub(r"^…$", "", items, flags=re.MULTILINE))
    return Example(command, int(status.split(" ")[1]), dict(line.split(": ", 1) for line in headers), json.loads(members))


@pytest.fixture
async def tenant(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Tenant]:
    """A tenant whose calls go to the simulator. Its key is in the file to which `callgate demo` writes a key."""
    async with running_app(create_simulator(SimulatorConfig(open_mode=True))) as simulator_url:
        tenant = await gateway.add_tenant(simulator_url)
        (tmp_path / ".callgate").mkdir()
        (tmp_path / ".callgate" / "demo_key").write_text(f"{tenant.key}\n")
        yield tenant


@needs_program("curl")
async def test_the_printed_commands_answer_as_printed(gateway: Gateway, tenant: Tenant, tmp_path: Path) -> None:
    await _assert_printed_answers(gateway, examples(), cwd=tmp_path)


@needs_program("curl")
async def test_the_printed_commands_of_queues_answer_as_printed(gateway: Gateway, tenant: Tenant, tmp_path: Path) -> None:
    await _assert_printed_answers(gateway, examples_in(QUEUES.split("\n### Many calls at once\n")[0]), cwd=tmp_path)


async def test_the_printed_commands_of_administration_answer_as_printed(gateway: Gateway, tmp_path: Path) -> None:
    _, key = await gateway.tenants.create_key(None, name=None, creator=COMMAND_LINE_CALLER)
    printed = examples_in(ADMINISTRATION)
    assert {example.status for example in printed} == {200, 201}
    await _assert_printed_answers(gateway, printed, cwd=tmp_path, OPERATOR_KEY=key)


async def _assert_printed_answers(gateway: Gateway, printed: list[Example], *, cwd: Path, **variables: str) -> None:
    mark = "\n=== next ===\n"
    script = f"printf '{mark}'\n".join(example.command for example in printed).replace(PRINTED_URL, gateway.url)
    environment = os.environ | variables
    shell = await asyncio.create_subprocess_exec("sh", "-euc", script, cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE)
    output, _ = await shell.communicate()
    answers = output.decode().split(mark)
    assert len(answers) == len(printed)
    for example, answer in zip(printed, answers, strict=True):
        head, body = answer.replace("\r\n", "\n").split("\n\n", 1)
        assert int(head.split(" ")[1]) == example.status, example.command
        headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
        assert example.headers.keys() <= headers.keys()
        assert headers["content-type"] == example.headers.get("content-type", "application/json")
        _assert_answered(example.shown, json.loads(body), example.command)


def _assert_answered(shown: Any, real: Any, where: str) -> None:
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in real, (where, name)
            if name not in _VOLATILE and not (name in _PROGRESS and "sid" in real):
                _assert_answered(value, real[name], f"{where} {name}")
    elif isinstance(shown, list) and "…" in shown:
        _assert_answered(shown[:-1], real[: len(shown) - 1], where)
    elif isinstance(shown, list) and len(shown) == len(real):
        for one, other in zip(shown, real, strict=True):
            _assert_answered(one, other, where)
    else:
        assert shown == real, where


def test_the_examples_are_those_of_twilios_guide_and_more() -> None:
    commands = " ".join(example.command for example in examples())
    for text in ('"to": "sip:kate@example.com"', '"sip_auth_password": "secret"', "?X-hatchkey=4815162342", ";secure=true"):
        assert text in commands
    assert {example.status for example in examples()} == {200, 201, 422}
    assert any("idempotent-replayed" in example.headers for example in examples())


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(rf"^\| `{SETTING_PREFIX}(\w+)` \| .+ \| ([^|]+) \|$", SETTINGS, re.MULTILINE))
    assert rows.keys() == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = f"{field.default:g}" if isinstance(field.default, float) else field.default
        assert rows[name.upper()].startswith("none" if default is None else f"`{default}`"), name


@pytest.mark.parametrize("page", PAGES)
def test_every_variable_that_is_named_is_a_setting(page: str) -> None:
    assert set(re.findall(rf"{SETTING_PREFIX}([A-Z_]+[A-Z])", PAGES[page])) <= {name.upper() for name in Settings.model_fields}


def test_every_error_has_its_section_and_only_these() -> None:
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", ERRORS, re.MULTILINE | re.DOTALL))
    assert sections.keys() == error_classes_by_slug().keys()
    for slug, error in error_classes_by_slug().items():
        key = "same key" if error.repeat_with_same_key else "new key"
        assert sections[slug].strip().startswith(f"HTTP {error.status} · `{error.execution}` · {key}\n"), slug
        for who in ("- **The call:**", "- **The caller**", "- **The operator**"):
            assert sections[slug].count(who) == 1, (slug, who)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]):
        assert re.match(r"https?://", target) or ((ROOT / page).parent / target).exists(), target


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub makes from the headings of a Markdown text."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_into_a_page_leads_to_a_heading(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", PAGES[page]):
        linked = (ROOT / page).parent / target if target else ROOT / page
        assert "".join(anchor.split()) in anchors(linked.read_text()), (target, anchor)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    for name in re.findall(r"`((?:app|bench|deploy|docs|migrations|simulator|tests)/[\w./-]*)`", PAGES[page]):
        assert (ROOT / name).exists(), name


def names(spans: Iterable[str]) -> set[str]:
    """Returns the Python names in inline code: words with an underscore or a capital letter inside."""
    words = {word for span in spans if "/" not in span for word in re.findall(r"\w+", span)}
    return {word for word in words if re.search(r"_\w|[a-z][A-Z]", word)}


def test_every_name_in_a_recipe_is_in_a_file_that_the_step_names() -> None:
    recipes = re.sub(r"```.*?```", "", PAGES["docs/adding.md"], flags=re.DOTALL)
    checked = set[str]()
    for step in re.split(r"\n(?=\n|\s*\d+\. |\s*\| )", recipes):
        spans = re.findall(r"`([^`]+)`", step)
        files = [ROOT / span for span in spans if re.fullmatch(r"[\w/]+\.py", span)]
        if files:
            known = set(re.findall(r"\w+", " ".join(file.read_text() for file in files)))
            assert names(spans) <= known, step
            checked |= names(spans)
    assert len(checked) > 30


def test_every_name_in_contributing_exists() -> None:
    sources = " ".join(source.read_text() for source in (ROOT / "app").rglob("*.py"))
    found = names(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", PAGES["CONTRIBUTING.md"]))
    assert found
    assert found <= set(re.findall(r"\w+", sources))


def code(text: str) -> list[str]:
    """Returns the command lines of all shell blocks, with continued lines joined, and the texts between backquotes."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line.partition(" #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_is_named_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check"} <= targets
    assert {match[1] for line in code(PAGES[page]) if (match := re.match(r"make ([a-z-]+)", line))} <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_callgate_command_that_is_named_exists(page: str) -> None:
    for line in code(PAGES[page]):
        if match := re.search(r"(?:^|[ /])callgate ((?:[a-z][a-z-]* ?)+)(.*)", line):
            _assert_is_command([*match[1].split(), *match[2].split()])


@cache
def _root_command() -> Any:
    return get_command(command_line)


def _assert_is_command(words: list[str]) -> None:
    command = _root_command()
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    if isinstance(command, TyperCommand):
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_every_decision_says_why_and_what_else_there_was() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in decisions] == list(range(1, len(decisions) + 1))
    for page in decisions:
        assert page.read_text().startswith(f"# {int(page.name[:4])}. ")
        titles = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
        assert titles == ["Context", "Decision", "Consequences", "Alternatives"], page.name
        status = page.read_text().split("\n\n")[1]
        assert re.match(r"Accepted, \d{4}-\d\d-\d\d\.", status), page.name
        assert all(int(later) > int(page.name[:4]) for later in re.findall(r"\[ADR (\d+)\]", status)), page.name


def test_the_changelog_has_a_section_for_this_version() -> None:
    assert f"\n## [{__version__}] - " in PAGES["CHANGELOG.md"]
