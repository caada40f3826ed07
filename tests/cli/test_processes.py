"""`callgate serve`, `worker` and `migrate` work as Kubernetes runs them, and no call is lost when one is killed."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import text

from app import __version__
from app.calls.models import Call
from app.database.engine import Database
from app.healthcheck import health_url_of_command
from app.revisions import newest_revision
from tests.cli.running import Process, environment, eventually, failure, free_port, is_listening, run, running, wait_until
from tests.support.clients import http_client, http_get, http_post, sync_http_client
from tests.support.gateway import BASIC_CALL, SECRET_KEY, Gateway, Tenant
from tests.support.upstream import Upstream, created_after_release, hang, refused_url, running_upstream

SINGLE_SIGN_ON_WITHOUT_SECRET = {
    "CALLGATE_CONSOLE_URL": "https://calls-ops.example.com",
    "CALLGATE_CONSOLE_OIDC_ISSUER": "https://id.example.com/realms/staff",
    "CALLGATE_CONSOLE_OIDC_CLIENT_ID": "callgate",
    "CALLGATE_CONSOLE_OIDC_ACCESS": '[{"claim": "groups", "value": "voice", "scopes": ["read"]}]',
}


@contextmanager
def serving(
    tmp_path: Path, database_url: str, *, start: Callable[..., AbstractContextManager[Process]] = running, **settings: str
) -> Iterator[tuple[Process, str]]:
    """Starts `callgate serve` with `start`, and yields the process and its URL once its startup is complete."""
    port = free_port()
    configured = environment(
        tmp_path / "state", CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY, **settings
    )
    with start("serve", "--port", str(port), environment=configured, file=tmp_path / "serve") as process:
        process.wait_for("Application startup complete")
        yield process, f"http://127.0.0.1:{port}"


# `timeout`, for example, sends its signal twice. Here SIGUSR1 does, and SIGUSR2 for SIGINT: nothing else runs between the two.
REPEATS_SIGNALS = """
import signal
from app.cli import main

def twice(number):
    return lambda *_: [signal.raise_signal(number) for _ in range(2)]

signal.signal(signal.SIGUSR1, twice(signal.SIGTERM))
signal.signal(signal.SIGUSR2, twice(signal.SIGINT))
main()
"""


@contextmanager
def running_with_repeated_signals(*arguments: str, environment: dict[str, str], file: Path) -> Iterator[Process]:
    """Runs `callgate` as `running` does. SIGUSR1 sends SIGTERM to the process twice, and SIGUSR2 sends SIGINT twice."""
    with file.open("wb") as output:
        child = subprocess.Popen(
            (sys.executable, "-c", REPEATS_SIGNALS, *arguments), env=environment, stdout=output, stderr=output
        )
    try:
        yield Process(child, file)
    finally:
        child.kill()
        child.wait()


def serving_with_repeated_signals(
    tmp_path: Path, database_url: str, **settings: str
) -> AbstractContextManager[tuple[Process, str]]:
    return serving(tmp_path, database_url, start=running_with_repeated_signals, **settings)


async def start_dialled_creation(upstream: Upstream, url: str, tenant: Tenant, key: str) -> asyncio.Task[httpx.Response]:
    """Starts a creation. Returns its task once the process at `url` has sent the POST to Twilio and waits for the answer."""

    async def create() -> httpx.Response:
        headers = {"Authorization": f"Bearer {tenant.key}", "Idempotency-Key": key}
        async with http_client(base_url=url, headers=headers) as http:
            return await http.post("/v1/calls", json=BASIC_CALL)

    task = asyncio.create_task(create())
    await eventually(lambda: bool(upstream.posts) or task.done(), "the POST at Twilio")
    return task


async def newest_call(gateway: Gateway) -> Call:
    """Returns the newest call in the database."""
    async with gateway.database.begin() as session:
        found = await session.execute(text("SELECT id FROM call ORDER BY id DESC LIMIT 1"))
        call = await session.get(Call, found.scalar_one())
    assert call
    return call


async def test_a_creation_whose_process_is_killed_becomes_unknown_and_is_not_dialled_again(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    async with running_upstream(hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        with serving(tmp_path, database_url) as (process, url):
            creating = await start_dialled_creation(upstream, url, tenant, "k")
            process.end(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await creating
        call = await newest_call(gateway)
        assert (call.execution, call.sid) == ("pending", None)
        retried = await tenant.create("k")
        assert (retried.status_code, retried.json()["call_id"]) == (409, str(call.id))
        async with gateway.database.begin() as session:  # its budget has passed
            await session.execute(text("UPDATE call SET pending_since = pending_since - interval '1 hour'"))

        configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
        with running("worker", environment=configured, file=tmp_path / "worker") as worker:
            worker.wait_for("creation_abandoned")
            assert worker.end(signal.SIGTERM) == 0
        retried = await tenant.create("k")
        assert (retried.status_code, retried.json()["execution"]) == (200, "unknown")
        assert len(upstream.posts) == 1
    last = (await tenant.events(str(call.id)))[-1]
    assert (last["type"], last["data"]) == ("call.unknown", {"reason": "abandoned"})


async def test_a_stopping_process_commits_and_answers_requests_in_progress(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        with serving(tmp_path, database_url) as (process, url):
            creating = await start_dialled_creation(upstream, url, tenant, "k")
            process.child.send_signal(signal.SIGTERM)
            await eventually(lambda: not is_listening(httpx.URL(url).port or 0), "the end of listening")
            assert process.child.poll() is None
            upstream.released.set()
            answer = await creating
            await eventually(lambda: process.child.poll() is not None, "the end of the process")
        assert (answer.status_code, answer.json()["execution"]) == (201, "started")
        call = await newest_call(gateway)
        assert (call.execution, call.sid) == ("started", answer.json()["sid"])
        assert len(upstream.posts) == 1


async def test_a_disconnected_caller_does_not_cancel_the_dial_of_a_stopping_process(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        with serving(tmp_path, database_url) as (process, url):
            creating = await start_dialled_creation(upstream, url, tenant, "k")
            creating.cancel()
            await asyncio.wait([creating])
            process.child.send_signal(signal.SIGTERM)
            await eventually(lambda: not is_listening(httpx.URL(url).port or 0), "the end of listening")
            upstream.released.set()
            await eventually(lambda: process.child.poll() is not None, "the end of the process")
        call = await newest_call(gateway)
        assert call.execution == "started"
        assert len(upstream.posts) == 1


def test_a_stopping_process_closes_connections_and_only_a_later_signal_ends_it_at_once(
    database_url: str, tmp_path: Path
) -> None:
    with (
        serving_with_repeated_signals(tmp_path, database_url, CALLGATE_LINGER="300") as (process, url),
        sync_http_client(base_url=url) as http,
    ):
        assert "connection" not in http.get("/livez").headers
        process.child.send_signal(signal.SIGUSR1)
        process.wait_for("leaving")
        for _ in range(2):  # on the open connection, then on a new one
            answer = http.get("/livez")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert "Shutting down" not in process.output

        def has_ended() -> bool:
            process.child.terminate()
            return process.child.poll() is not None

        wait_until(has_ended, "the end by a signal that is not a repetition")
        assert "Application shutdown complete" in process.output


async def test_an_interrupt_that_is_sent_twice_does_not_cut_requests_in_progress(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    async with running_upstream(created_after_release()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        with serving_with_repeated_signals(tmp_path, database_url) as (process, url):
            creating = await start_dialled_creation(upstream, url, tenant, "k")
            process.child.send_signal(signal.SIGUSR2)
            await asyncio.to_thread(process.wait_for, "Waiting for connections to close")
            upstream.released.set()
            assert (await creating).status_code == 201
            await eventually(lambda: process.child.poll() is not None, "the end of the process")
        assert process.child.returncode == 0
        assert len(upstream.posts) == 1


def test_a_failed_migration_has_a_nonzero_exit_code(tmp_path: Path, empty_database_url: str) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=empty_database_url)
    assert run("migrate", environment=configured).returncode == 0

    async def reset_revision() -> None:
        database = Database(empty_database_url, pool_size=1)
        async with database.begin() as session:
            await session.execute(text("DELETE FROM alembic_version"))
        await database.close()

    asyncio.run(reset_revision())
    code, message = failure("migrate", environment=configured)
    assert code == 1
    assert message.startswith("callgate: the migration failed: ")


def test_serve_starts_without_a_database_and_places_no_call(tmp_path: Path) -> None:
    unreachable = refused_url().replace("http://", "postgresql://callgate:planted@") + "/callgate"
    with serving(tmp_path, unreachable) as (process, url):
        assert http_get(f"{url}/livez").status_code == 200
        assert http_get(f"{url}/readyz").status_code == 503
        refused = http_post(f"{url}/v1/calls", json=BASIC_CALL, headers={"Authorization": "Bearer cgk_0_x"})
        assert "planted" not in process.output
    assert (refused.status_code, refused.json()["execution"]) == (503, "not_started")
    assert refused.headers["content-type"] == "application/problem+json"


def test_an_empty_database_is_migrated_and_then_served_without_a_restart(tmp_path: Path, empty_database_url: str) -> None:
    with serving(tmp_path, empty_database_url) as (_, url):
        assert http_get(f"{url}/livez").status_code == 200
        creation = httpx.Request("POST", f"{url}/v1/calls", json=BASIC_CALL, headers={"Authorization": "Bearer cgk_0_x"})
        with sync_http_client() as http:
            refused = http.send(creation)
            assert (refused.status_code, refused.json()["execution"]) == (503, "not_started")
            # As the Job of Kubernetes: it has the settings of the API, but of the secrets only the database's URL.
            of_the_job = environment(tmp_path, CALLGATE_DATABASE_URL=empty_database_url, **SINGLE_SIGN_ON_WITHOUT_SECRET)
            for _ in range(2):  # repeating is safe
                migrated = run("migrate", environment=of_the_job)
                assert (migrated.returncode, migrated.stderr) == (0, "")
            assert http.send(creation).status_code == 401


def test_a_worker_answers_its_healthcheck_and_counts(database_url: str, tmp_path: Path) -> None:
    port = free_port()
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    asked = ["healthcheck", f"http://127.0.0.1:{port}/livez"]
    with running("worker", "--ops-port", str(port), environment=configured, file=tmp_path / "worker") as worker:
        wait_until(lambda: run(*asked, environment=configured).returncode == 0, "a good answer")
        with sync_http_client(base_url=f"http://127.0.0.1:{port}") as http:
            wait_until(lambda: http.get("/readyz").json()["status"] == "ok", "readiness")
            counted = http.get("/metrics").text
        worker.child.send_signal(signal.SIGSTOP)  # simulates a worker that hangs
        hanging = run(*asked, environment=configured)
        worker.child.send_signal(signal.SIGCONT)
        assert worker.end(signal.SIGTERM) == 0
    assert "callgate_build_info" in counted
    assert (hanging.returncode, hanging.stderr) == (1, f"no answer from {asked[1]} (timed out)\n")


def test_a_healthcheck_reports_an_error_response(tmp_path: Path) -> None:
    unreachable = refused_url().replace("http://", "postgresql://callgate:planted@") + "/callgate"
    with serving(tmp_path, unreachable) as (_, url):
        configured = environment(tmp_path)
        wait_until(lambda: run("healthcheck", f"{url}/livez", environment=configured).returncode == 0, "a good answer")
        unready = f"{url}/readyz answers 503\n"
        wait_until(lambda: run("healthcheck", f"{url}/readyz", environment=configured).stderr == unready, "a bad one")


@pytest.mark.parametrize("url", ["http://127.0.0.1:80x/", f"http://127.0.0.1:{10**20}/", "http://[::1"])
def test_a_healthcheck_reports_a_wrong_url(url: str, tmp_path: Path) -> None:
    code, message = failure("healthcheck", url, environment=environment(tmp_path))
    assert (code, message.startswith(f"no answer from {url} (")) == (1, True)


def test_a_healthcheck_imports_little(tmp_path: Path) -> None:
    listed = "import sys, runpy; sys.argv[1:] = ['healthcheck', 'http://127.0.0.1:1/']\n"
    listed += "try: runpy.run_module('app', run_name='__main__')\nexcept SystemExit: print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True).stdout.split()
    assert "app.healthcheck" in loaded
    assert not {"app.cli", "app.settings", "fastapi", "pydantic", "sqlalchemy", "typer"} & set(loaded)


def test_the_api_does_not_import_alembic() -> None:
    program = [sys.executable, "-c", "import sys, app.main; print(*sys.modules)"]
    loaded = subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()
    assert "app.main" in loaded
    assert not {"alembic", "mako"} & set(loaded)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_names_all_missing_settings(tmp_path: Path, command: str) -> None:
    code, message = failure(command, environment=environment(tmp_path))
    assert code == 2
    assert "CALLGATE_DATABASE_URL" in message
    assert "CALLGATE_SECRET_KEYS" in message


def test_serve_names_too_few_connections_and_an_incomplete_single_sign_on(tmp_path: Path) -> None:
    settings = {
        "CALLGATE_DATABASE_URL": "postgresql://h/d",
        "CALLGATE_SECRET_KEYS": SECRET_KEY,
        "CALLGATE_MAX_IN_FLIGHT": "1000",
        **SINGLE_SIGN_ON_WITHOUT_SECRET,
    }
    # Nothing can listen on this address, so that the process ends in any case.
    code, message = failure("serve", "--host", "203.0.113.1", environment=environment(tmp_path, **settings))
    assert failure("dev", environment=environment(tmp_path, **settings)) == (code, message)
    assert code == 2
    assert "CALLGATE_MAX_CONNECTIONS is 1000 but must be more than CALLGATE_MAX_IN_FLIGHT (1000)" in message
    assert message.endswith("login with OpenID Connect needs CALLGATE_CONSOLE_OIDC_CLIENT_SECRET, too")


def test_an_unreachable_database_is_reported_in_one_line_without_its_password(tmp_path: Path) -> None:
    unreachable = refused_url().replace("http://", "postgresql://callgate:planted@") + "/callgate"
    code, message = failure("migrate", environment=environment(tmp_path, CALLGATE_DATABASE_URL=unreachable))
    assert code == 1
    assert message.startswith("callgate: the database cannot be used (")
    assert "planted" not in message


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path, database_url: str) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    with socket.create_server(("127.0.0.1", 0)) as taker:
        taken = str(taker.getsockname()[1])
        code, message = failure("serve", "--port", taken, environment=configured)
    assert code == 1
    assert message.startswith(f"callgate: cannot listen on 127.0.0.1:{taken} (")


def test_the_simulator_limits_every_account(tmp_path: Path) -> None:
    port, sid = free_port(), "AC" + "0" * 32
    options = ["--port", str(port), "--calls-per-second", "0.001", "--max-concurrent", "2"]
    with running("simulator", *options, environment=environment(tmp_path), file=tmp_path / "simulator"):
        wait_until(lambda: is_listening(port), "the simulator listens")
        with sync_http_client(base_url=f"http://127.0.0.1:{port}/2010-04-01/Accounts/{sid}", auth=(sid, "any")) as http:
            form = {"To": "sip:forever@example.com", "From": "Jack", "Twiml": "<Response/>"}
            first, second, third = (http.post("/Calls.json", data=form).json() for _ in range(3))
    assert (first["queue_time"], int(second["queue_time"]) > 0, third["code"]) == ("0", True, 10004)


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("python /opt/callgate/bin/callgate serve --host 0.0.0.0", "http://127.0.0.1:8000/livez"),
        ("python /opt/callgate/bin/callgate serve --port 8080", "http://127.0.0.1:8080/livez"),
        ("/sbin/docker-init -- /opt/callgate/bin/callgate serve --port=8080", "http://127.0.0.1:8080/livez"),
        ("python /opt/callgate/bin/callgate worker --metrics-port 9000", "http://127.0.0.1:9000/livez"),
        ("python /opt/callgate/bin/callgate worker --ops-port=9000", "http://127.0.0.1:9000/livez"),
        ("python /opt/callgate/bin/callgate worker", None),
        ("python /opt/callgate/bin/callgate simulator", "http://127.0.0.1:8010/_simulator/health"),
        ("/sbin/init", "http://127.0.0.1:8000/livez"),
        ("", "http://127.0.0.1:8000/livez"),
    ],
)
def test_a_healthcheck_requests_the_url_of_its_containers_role(command: str, url: str | None) -> None:
    assert health_url_of_command(command.split()) == url


def test_a_healthcheck_requests_a_worker_at_its_configured_port() -> None:
    assert health_url_of_command(["/opt/callgate/bin/callgate", "worker"], "9000") == "http://127.0.0.1:9000/livez"


def test_an_older_version_leaves_a_newer_schema_unchanged(empty_database_url: str, tmp_path: Path) -> None:
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=empty_database_url)
    first = run("migrate", environment=configured)
    assert (first.returncode, first.stdout) == (0, "The schema is up to date.\n")
    with psycopg.connect(empty_database_url.replace("+asyncpg", "")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    again = run("migrate", environment=configured)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("The schema has revision 9999, of a newer version of Callgate.")
    with psycopg.connect(empty_database_url.replace("+asyncpg", "")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_the_version_includes_the_schema_revision(tmp_path: Path) -> None:
    assert run("--version", environment=environment(tmp_path)).stdout == f"callgate {__version__}, schema {newest_revision()}\n"


def test_a_worker_does_not_start_without_its_folder_of_counters(database_url: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    configured = environment(
        tmp_path / "state",
        CALLGATE_DATABASE_URL=database_url,
        CALLGATE_SECRET_KEYS=SECRET_KEY,
        CALLGATE_GRANT_COUNTER_DIR=str(missing),
    )
    finished = run("worker", environment=configured)
    expected = f"callgate: CALLGATE_GRANT_COUNTER_DIR: {missing} is no folder that this process can read and write"
    assert (finished.returncode, finished.stderr.splitlines()[-1]) == (1, expected)
