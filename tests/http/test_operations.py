"""Probes, metrics and documentation are cheap, need no key, and can have their own port."""

import asyncio
import json
import signal
import socket
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.observability.metrics import EXPOSITION_INTERVAL_S
from app.settings import Settings
from tests.cli.running import Process, environment, free_port, is_listening, running, wait_until
from tests.support.clients import http_client, http_get, http_post
from tests.support.gateway import BASIC_CALL, SECRET_KEY, Gateway, wait_until_ready
from tests.support.statements import recorded_statements

OPERATIONS = ["/livez", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json", "/static-offline-docs/favicon.png"]
OPERATIONS += ["/redoc.standalone.js", "/docs/errors"]


async def test_the_openapi_document_is_cached_with_an_etag(gateway: Gateway) -> None:
    async with http_client(base_url=gateway.url) as http:
        first = await http.get("/openapi.json")
        assert first.headers["content-type"] == "application/json"
        assert first.json() == json.loads(json.dumps(create_app(Settings()).openapi()))
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await http.get("/openapi.json", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        changed = await http.get("/openapi.json", headers={"If-None-Match": '"other"'})
        assert (changed.status_code, changed.content) == (200, first.content)


async def test_metrics_are_computed_at_most_once_a_second(gateway: Gateway) -> None:
    async with http_client(base_url=gateway.url) as http:
        await asyncio.sleep(EXPOSITION_INTERVAL_S)
        first, *others = [(await http.get("/metrics")).text for _ in range(20)]
        assert len({first, *others}) < 10, "each request is counted, so each would differ"
        await asyncio.sleep(EXPOSITION_INTERVAL_S)
        assert (await http.get("/metrics")).text != first


async def test_many_concurrent_probes_are_answered_with_few_checks_of_the_database(gateway: Gateway) -> None:
    async with http_client(base_url=gateway.url) as http:
        await wait_until_ready(http)
        async with recorded_statements(gateway.served_database) as sent:
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    assert 0 < sum(len(statements) for statements in sent.values()) < len(answers)


def served_on(process: Process, *urls: str) -> None:
    process.wait_for("Application startup complete")
    for url in urls:
        wait_until(lambda url=url: httpx.get(f"{url}/readyz", timeout=60).status_code == 200, url)  # type: ignore[misc]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_operations_port_has_metrics_but_no_api_and_stops_with_the_main_port(
    database_url: str, tmp_path: Path, workers: str
) -> None:
    port, ops_port = free_port(), free_port()
    main, operations = f"http://127.0.0.1:{port}", f"http://[::1]:{ops_port}"
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    arguments = ["serve", "--host", "::", "--port", str(port), "--ops-port", str(ops_port), "--workers", workers]
    with running(*arguments, environment=configured, file=tmp_path / "serve") as process:
        served_on(process, main, operations, f"http://127.0.0.1:{ops_port}")
        assert {path: http_get(operations + path).status_code for path in OPERATIONS} == dict.fromkeys(OPERATIONS, 200)
        assert {path: http_get(main + path).status_code for path in OPERATIONS} == {
            **dict.fromkeys(OPERATIONS, 200),
            "/metrics": 404,
        }
        assert http_post(f"{main}/v1/calls", json=BASIC_CALL).status_code == 401
        # The admin API needs a key on this port, and is not on the other one.
        for path in ("/v1/admin/tenants", "/v1/admin/audit-events", "/v1/admin/tenants/x/keys"):
            assert http_get(operations + path).status_code == 401
            assert http_get(main + path).status_code == 404
            assert http_post(main + path, json={}).json()["type"] == "urn:callgate:problem:not-found"
        # So does the console: it needs a login.
        assert http_get(f"{operations}/console").headers["Location"] == "/console/login"
        assert http_get(f"{operations}/console/login").status_code == 200
        for path in ("/console", "/console/login"):
            assert http_get(main + path).status_code == 404
        for path in (
            "/consolex",
            "/v1/admin",
            "/v1/calls",
            "/v1/sip-uris",
            "/callbacks/twilio/x",
            "/2010-04-01/Accounts/AC/Calls",
        ):
            assert {httpx.request(method, operations + path).status_code for method in ("GET", "POST")} == {404}
        handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "A" * 24}
        assert http_get(f"{main}/v1/x?To=%2B14155550100", headers=handshake).status_code == 404
        process.end(signal.SIGTERM)
        assert not is_listening(port)
        assert not is_listening(ops_port)
    assert "4155550100" not in process.output


def test_the_setting_applies_to_the_api_and_the_worker(database_url: str, tmp_path: Path) -> None:
    port, ops_port = free_port(), free_port()
    configured = environment(
        tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY, CALLGATE_OPS_PORT=str(ops_port)
    )
    for arguments in (["serve", "--port", str(port)], ["worker"]):
        with running(*arguments, environment=configured, file=tmp_path / arguments[0]):
            wait_until(lambda: is_listening(ops_port), "the operations port")
            wait_until(lambda: httpx.get(f"http://127.0.0.1:{ops_port}/readyz", timeout=60).status_code == 200, "readiness")
            assert "callgate_build_info" in http_get(f"http://127.0.0.1:{ops_port}/metrics").text
            assert httpx.head(f"http://127.0.0.1:{ops_port}/livez").status_code == 200
        wait_until(lambda: not is_listening(ops_port), "its end")


def test_the_same_port_for_api_and_operations_is_refused(tmp_path: Path, database_url: str) -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        port = str(taker.getsockname()[1])
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=SECRET_KEY)
    with running("serve", "--port", port, "--ops-port", port, environment=configured, file=tmp_path / "serve") as process:
        process.wait_for("choose another with --ops-port")
