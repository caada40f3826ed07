"""`callgate demo` places a call on a machine without any setup."""

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.local.postgres import remove_postgres_data
from tests.cli.running import (
    CALLGATE,
    DEADLINE_S,
    Process,
    assert_no_process_is_left,
    environment,
    ports_of,
    run,
    running,
    wait_until,
)
from tests.support.clients import http_get, http_post
from tests.support.upstream import refused_url

API = r"API +(http://127\.0\.0\.1:(\d+))"


@pytest.fixture(scope="module")
def default_port_in_use() -> Iterator[None]:
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another process uses it, which serves as well
            taker.bind(("127.0.0.1", 8000))
            taker.listen()
        yield


@pytest.fixture(scope="module")
def demo(shared_state_dir: Path, default_port_in_use: None) -> Iterator[Process]:
    """A `callgate demo` that keeps running."""
    with running("demo", environment=environment(shared_state_dir), file=shared_state_dir.parent / "output") as process:
        yield process


@pytest.fixture(scope="module")
def once_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state_dir = tmp_path_factory.mktemp("once") / "state"
    yield state_dir
    remove_postgres_data(state_dir)


@pytest.fixture(scope="module")
def once(once_state_dir: Path, demo: Process) -> Iterator[Process]:
    """A `callgate demo --once` that has ended. It starts after `demo`, so that the calls of both run at the same time.

    The proxy in its environment does not answer.
    """
    arguments = ("demo", "--once", "--port", "0")
    settings = environment(once_state_dir, ALL_PROXY=refused_url())
    with running(*arguments, environment=settings, file=once_state_dir.parent / "output") as process:
        process.child.wait(DEADLINE_S)
        yield process


def test_demo_once_prints_every_state_of_the_call_and_its_record(once: Process) -> None:
    assert once.child.returncode == 0, once.output
    *shown, last = once.output.splitlines()
    states = re.findall(r"^ +[\d.]+ s +(\S+)", "\n".join(shown), flags=re.MULTILINE)
    assert states == ["queued", "ringing", "in-progress", "completed", "priced"]
    record = json.loads(last)
    assert (record["execution"], record["status"]) == ("started", "completed")
    assert re.fullmatch(r"CA[0-9a-f]{32}", record["sid"])
    assert re.fullmatch(r"-\d+\.\d+", record["price"])
    assert len(record["subresource_uris"]) == 9


def test_a_later_start_keeps_earlier_records_and_the_key(once: Process, once_state_dir: Path, tmp_path: Path) -> None:
    """Its public URL has another port than the API, as if the port of the documentation were in use."""
    record = json.loads(once.output.splitlines()[-1])
    key = (once_state_dir / "demo_key").read_text().strip()
    settings = environment(once_state_dir, CALLGATE_PUBLIC_URL="http://127.0.0.1:8000")
    with running("demo", "--port", "0", environment=settings, file=tmp_path / "output") as again:
        url = again.wait_for(API)[1]
        again.wait_for(rf"callbacks go to http://127\.0\.0\.1:8000: set CALLGATE_PUBLIC_URL={re.escape(url)} ")
        again.wait_for("queued")
        found = http_get(f"{url}/v1/calls/{record['id']}", headers={"Authorization": f"Bearer {key}"})
        assert again.end(signal.SIGINT) == 0
    assert found.json()["sid"] == record["sid"]
    assert (once_state_dir / "demo_key").read_text().strip() == key


def test_another_port_is_used_and_printed_if_the_default_is_in_use(demo: Process) -> None:
    found = demo.wait_for(API)
    assert found[2] != "8000"
    assert http_get(f"{found[1]}/livez").json() == {"status": "ok"}
    assert http_get(f"{found[1]}/docs").status_code == 200


def test_the_printed_link_logs_an_operator_in_once(demo: Process, shared_state_dir: Path) -> None:
    address = demo.wait_for(r"Console +(http://127\.0\.0\.1:\d+/console/link/[\w-]+)\n")[1]
    base, _, link = address.rpartition("/console/link/")
    another = run("console", "link", environment=environment(shared_state_dir)).stdout.strip()
    assert re.fullmatch(rf"{base}/console/link/[\w-]+", another)
    assert another != address
    assert link in http_get(address).text
    answers = [http_post(f"{base}/console/link", data={"link": link}, headers={"Origin": base}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 401]
    cookie = answers[0].headers["Set-Cookie"].partition(";")[0]
    assert "every tenant" in http_get(f"{base}/console/session", headers={"Cookie": cookie}).text


def test_the_printed_command_places_a_call(demo: Process) -> None:
    command = demo.wait_for(r"(?s)\n( +curl .+?)\n\nCtrl-C")[1]
    pasted = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(pasted.stdout)["execution"] == "started"


def test_a_second_demo_is_refused_and_does_not_affect_the_first(demo: Process, shared_state_dir: Path) -> None:
    url = demo.wait_for(API)[1]
    logged = (shared_state_dir / "demo.log").stat().st_size
    second = run("demo", environment=environment(shared_state_dir))
    assert second.returncode == 1
    assert re.fullmatch(r"callgate: `callgate dev` or `demo` runs over .+, at http.+: stop it first\n", second.stderr)
    assert http_get(f"{url}/readyz").status_code == 200
    assert (shared_state_dir / "demo.log").stat().st_size >= logged > 0


def test_ctrl_c_stops_all_processes(demo: Process, shared_state_dir: Path) -> None:
    demo.wait_for("Ctrl-C")
    ports = ports_of(shared_state_dir)
    assert len(ports) == 3
    assert demo.end(signal.SIGINT) == 0
    assert demo.output.endswith("Everything is stopped.\n")
    assert_no_process_is_left(shared_state_dir, ports)
    assert not (shared_state_dir / "dev.json").exists()


def test_a_killed_demo_leaves_no_process(once_state_dir: Path, tmp_path: Path) -> None:
    with running("demo", "--port", "0", environment=environment(once_state_dir), file=tmp_path / "output") as process:
        process.wait_for("queued")
        ports = ports_of(once_state_dir)
        process.end(signal.SIGKILL)
    assert_no_process_is_left(once_state_dir, ports)


@pytest.mark.parametrize("moment", ["starting", "queued"])
def test_demo_ends_when_its_make_process_ends(once_state_dir: Path, tmp_path: Path, moment: str) -> None:
    file = tmp_path / "output"
    with file.open("wb") as output:
        parent = subprocess.Popen(
            ["sh", "-c", f"'{CALLGATE}' demo --port 0 --with-parent & wait"],
            env=environment(once_state_dir),
            stdout=output,
            stderr=output,
        )
    Process(parent, file).wait_for(moment)
    ports = ports_of(once_state_dir) if moment == "queued" else []
    parent.kill()
    parent.wait()
    wait_until(lambda: "Everything is stopped." in file.read_text(), "the end of the demo")
    assert_no_process_is_left(once_state_dir, ports)


def test_once_fails_if_it_is_stopped_early(once_state_dir: Path, tmp_path: Path) -> None:
    arguments = ("demo", "--once", "--port", "0")
    with running(*arguments, environment=environment(once_state_dir), file=tmp_path / "output") as process:
        process.wait_for("queued")
        ports = ports_of(once_state_dir)
        assert process.end(signal.SIGTERM) == 1
    assert process.output.splitlines()[-1] == "callgate: stopped before the call was completed and priced"
    assert_no_process_is_left(once_state_dir, ports)
