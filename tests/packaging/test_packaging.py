"""Tests the image, the compose file, the wheel and the git hooks: the commands, settings and files that they name exist."""

import base64
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from typer.core import TyperGroup
from typer.main import get_command

from app import __version__
from app.calls.creation.placement import DRAIN_COMMIT_TIMEOUT_S
from app.cli import app as command_line
from app.healthcheck import DEFAULT_HEALTH_URL
from app.main import create_app
from app.services import dial_time_budget
from app.setting_values import SETTING_PREFIX
from app.settings import Settings
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.support.tools import needs_program

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED_PACKAGES = ("app", "migrations", "simulator")
REQUIRED_VARIABLES = {"CALLGATE_SECRET_KEYS": base64.b64encode(bytes(32)).decode(), "POSTGRES_PASSWORD": "0123456789abcdef"}


def instructions() -> list[tuple[str, str]]:
    """Returns the instructions of the Dockerfile in order, such as ("FROM", "…"), with continued lines joined."""
    code = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", code).splitlines()
    return [(name, value) for name, _, value in (line.partition(" ") for line in lines if line)]


def final_stage() -> dict[str, str]:
    names = [name for name, _ in instructions()]
    return dict(instructions()[len(names) - names[::-1].index("FROM") :])


def services() -> dict[str, dict[str, Any]]:
    """Returns the services of the compose file, with values for required variables (`${NAME:?message}`)."""
    text = (REPOSITORY / "docker-compose.yml").read_text()
    with_values = re.sub(r"\$\{(\w+):\?[^}]+\}", lambda variable: REQUIRED_VARIABLES[variable[1]], text)
    found: dict[str, dict[str, Any]] = yaml.safe_load(with_values)["services"]
    return found


def our_services() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if "build" in service}


def command_of(service: dict[str, Any]) -> list[str]:
    default: list[str] = yaml.safe_load(final_stage()["CMD"])
    command: list[str] = service.get("command", default)
    return command


def parameters(command: list[str]) -> dict[str, Any]:
    """Returns the parameters of a `callgate …` command. Raises the error of the command line if the command is wrong."""
    callgate = get_command(command_line)
    assert isinstance(callgate, TyperGroup)
    name, *arguments = command
    return callgate.commands[name].make_context(name, arguments).params


def probed(check: list[str]) -> tuple[int, str]:
    """Returns the port and path of a healthcheck. Its arguments have no space, because podman's API would split them."""
    assert not [word for word in check if " " in word]
    assert check[:3] == ["CMD", "callgate", "healthcheck"]
    asked = urlsplit(parameters(check[2:])["url"] or DEFAULT_HEALTH_URL)
    assert (asked.scheme, asked.hostname) == ("http", "127.0.0.1")
    return asked.port or 80, asked.path


def image_healthcheck() -> list[str]:
    command = final_stage()["HEALTHCHECK"].partition(" CMD ")[2]
    return ["CMD", *yaml.safe_load(command)]


def settings(environment: dict[str, str]) -> Settings:
    return Settings.model_validate({name.removeprefix(SETTING_PREFIX).lower(): value for name, value in environment.items()})


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    user, group = final_stage()["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_every_stage_starts_from_the_same_pinned_python() -> None:
    bases = {value.split(" ")[0] for name, value in instructions() if name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases.pop())


def test_the_image_builds_without_buildkit() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert not re.findall(r"<<|--link|--mount|^#\s*syntax", text, flags=re.MULTILINE)


def test_the_images_label_has_the_packages_version() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in final_stage()["LABEL"]


def test_the_image_serves_and_is_probed_on_the_port_that_it_exposes() -> None:
    serving = parameters(command_of({}))
    port, path = probed(image_healthcheck())
    assert (serving["host"], serving["port"], port) == ("0.0.0.0", int(final_stage()["EXPOSE"]), serving["port"])
    assert path in create_app(Settings()).openapi()["paths"]


def test_the_image_has_bytecode_and_no_pip_and_no_shell_commands() -> None:
    compiled = [value for name, value in instructions() if name == "RUN" and "compileall" in value]
    assert len(compiled) == 2
    assert any("/usr/local/bin/pip*" in value for name, value in instructions() if name == "RUN")
    assert all(final_stage()[name].startswith('["') for name in ("ENTRYPOINT", "CMD"))


def test_the_worker_listens_on_the_port_of_the_images_healthcheck() -> None:
    assert parameters(command_of(our_services()["worker"]))["ops_port"] == probed(image_healthcheck())[0]
    assert "healthcheck" not in our_services()["worker"]


@pytest.mark.parametrize("name", [name for name in services() if name != "migrate"])
def test_every_long_running_service_has_a_healthcheck(name: str) -> None:
    assert name in ("api", "worker") or services()[name]["healthcheck"]["test"]


def test_the_build_context_contains_only_what_the_dockerfile_copies() -> None:
    first, *others = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    allowed = {line.removeprefix("!") for line in others if line.startswith("!")}
    copies = [value.split(" ")[:-1] for name, value in instructions() if name == "COPY" and "--from=" not in value]
    assert allowed == {source for sources in copies for source in sources}


def test_the_build_backend_comes_from_the_lock_file() -> None:
    extraction = re.search(r"\(([a-z|-]+)\)==", (REPOSITORY / "Dockerfile").read_text())
    assert extraction
    needed, missing = set[str](), {"hatchling"}
    while missing:
        needed |= missing
        wanted = [Requirement(line) for name in missing for line in requires(name) or []]
        missing = {each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})} - needed
    assert set(extraction[1].split("|")) == needed


def test_the_wheel_contains_exactly_the_files_of_the_packages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {file for package in SHIPPED_PACKAGES for file in (REPOSITORY / package).rglob("*") if file.is_file()}
    guides = {f"app/http/guides/{file.name}" for file in (REPOSITORY / "docs").glob("*.md")}
    assert held == guides | {file.relative_to(REPOSITORY).as_posix() for file in files if file.suffix != ".pyc"}
    assert any(name.startswith("migrations/versions/") for name in held)


def test_compose_has_postgres_the_migration_and_every_process() -> None:
    roles = {name: command_of(service)[0] for name, service in our_services().items()}
    assert roles == {"migrate": "migrate", "api": "serve", "worker": "worker", "simulator": "simulator"}
    assert services().keys() - roles.keys() == {"postgres"}


@pytest.mark.parametrize("name", our_services())
def test_callgate_accepts_the_command_of_every_service(name: str) -> None:
    parameters(command_of(our_services()[name]))


@pytest.mark.parametrize("name", our_services())
def test_every_variable_of_a_service_is_a_setting(name: str) -> None:
    variables = our_services()[name].get("environment", {})
    assert variables.keys() <= {SETTING_PREFIX + field.upper() for field in Settings.model_fields}


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_service_has_every_required_setting(name: str) -> None:
    chosen = settings(our_services()[name]["environment"])
    assert chosen.require_secret_keys()
    assert REQUIRED_VARIABLES["POSTGRES_PASSWORD"] in chosen.require_database_url()


def test_the_migration_has_the_database_url_and_no_key() -> None:
    assert our_services()["migrate"]["environment"].keys() == {"CALLGATE_DATABASE_URL"}


def test_calls_go_to_the_simulators_port() -> None:
    service = our_services()["simulator"]
    listening = parameters(command_of(service))
    port, path = probed(service["healthcheck"]["test"])
    assert (listening["host"], listening["port"]) == ("0.0.0.0", port)
    assert path in create_simulator(SimulatorConfig()).openapi()["paths"]
    assert our_services()["api"]["environment"]["CALLGATE_TWILIO_BASE_URL"] == f"http://simulator:{port}"


def test_services_start_after_their_dependencies() -> None:
    assert our_services()["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert our_services()[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_services_grace_period_is_longer_than_the_work_in_progress(name: str) -> None:
    service = our_services()[name]
    grace, chosen = int(service["stop_grace_period"].removesuffix("s")), settings(service["environment"])
    if name == "api":
        assert chosen.drain_timeout >= chosen.request_budget
        assert grace >= chosen.linger + chosen.drain_timeout + 10, "docs/operations.md: ten seconds more"
    else:
        assert grace > 2 * dial_time_budget(chosen).attempt_s + DRAIN_COMMIT_TIMEOUT_S


@pytest.mark.parametrize("name", services())
def test_containers_have_minimal_rights(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"]}


def test_every_variable_of_the_compose_file_is_required_with_a_message() -> None:
    code = re.sub(r"^#.*", "", (REPOSITORY / "docker-compose.yml").read_text(), flags=re.MULTILINE)
    variables = set(re.findall(r"\$.*?(?:\}|$)", code, flags=re.MULTILINE))
    assert {re.sub(r":\?make one with .+\}$", "", variable) for variable in variables} == {
        "${" + name for name in REQUIRED_VARIABLES
    }


@needs_program("docker-compose")
@pytest.mark.parametrize("missing", REQUIRED_VARIABLES)
def test_compose_refuses_to_start_without_a_secret_and_says_how_to_create_one(missing: str) -> None:
    command = ["docker-compose", "--file", str(REPOSITORY / "docker-compose.yml"), "config", "--quiet"]
    inherited = {name: value for name, value in os.environ.items() if name not in REQUIRED_VARIABLES}
    complete = subprocess.run(command, env=inherited | REQUIRED_VARIABLES, capture_output=True, text=True, check=False)
    assert (complete.returncode, complete.stdout, complete.stderr) == (0, "", "")
    given = {name: value for name, value in REQUIRED_VARIABLES.items() if name != missing}
    refused = subprocess.run(command, env=inherited | given, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert missing in refused.stderr
    assert "openssl rand" in refused.stderr


def test_the_git_hooks_run_the_commands_of_make_lint() -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe
    assert [hook["entry"] for hook in hooks] == recipe[1].replace("$(BIN)", ".venv/bin").replace("\t", "").splitlines()
