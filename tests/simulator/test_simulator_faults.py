"""Tests each fault of the simulator: the bytes that a client receives, and the entry in the ledger of creations."""

import json
import select
import socket
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from simulator.config import SimulatorConfig
from simulator.connection import Connection
from simulator.faults import FAULTS, PROXY_STATUSES
from tests.simulator.running import OPEN_SID, Http, ManualClock, Running, plain_client, serve, serve_app, wait_until

SIP_DIAL = {"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}
RESET = "RST"
LOOPS = ("asyncio", "uvloop")
HTTP: tuple[Http, ...] = ("httptools", "h11")

# The answer's status and Twilio's code in it; None without an answer or a code.
ANSWERS: dict[str, tuple[int | None, int | None]] = {
    "accept-then-hang": (None, None),
    "accept-then-reset": (None, None),
    "accept-then-close": (None, None),
    "accept-then-half-answer": (201, None),
    **{f"accept-then-{status}": (status, None) for status in PROXY_STATUSES},
    "accept-then-500": (500, 20500),
    "accept-then-502": (502, None),
    "accept-then-503": (503, 20503),
    "accept-then-504": (504, None),
    "accept-unreadable": (201, None),
    "accept-without-sid": (201, None),
    "accept-then-stray": (201, None),
    "refuse-429": (429, 20429),
    "refuse-429-retry-after": (429, 20429),
    "refuse-401": (401, 20003),
    "refuse-403": (403, 20403),
    "refuse-400": (400, 21215),
    **{f"proxy-{status}": (status, None) for status in PROXY_STATUSES},
    "refuse-500": (500, 20500),
    "refuse-503": (503, 20503),
    "slow-accept": (201, None),
    "delayed-visibility": (201, None),
    "callback-before-response": (201, None),
    "callback-never": (201, None),
    "late-price": (201, None),
    "price-never": (201, None),
}


@pytest.fixture(scope="module", params=product(LOOPS, HTTP), ids="-".join)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yields the URL of a simulator, once for each combination of event loop and HTTP protocol of uvicorn."""
    loop, http = request.param
    with serve(SimulatorConfig(open_mode=True, clock=ManualClock()), loop=loop, http=http) as url:
        yield url


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def post(connection: socket.socket, *headers: str, **fields: str) -> None:
    body = urlencode(SIP_DIAL | fields)
    head = [
        f"POST /2010-04-01/Accounts/{OPEN_SID}/Calls.json HTTP/1.1",
        "Host: simulator",
        f"Authorization: Basic {b64encode(f'{OPEN_SID}:any'.encode()).decode()}",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    connection.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())


def read_to_end(connection: socket.socket) -> tuple[bytes, str]:
    """Returns the received bytes, and whether the connection ended with a FIN or with a reset."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        return received, RESET
    return received, "FIN"


def entries(url: str) -> list[dict[str, Any]]:
    with plain_client(url) as client:
        found: list[dict[str, Any]] = client.get("/_simulator/ledger").json()["entries"]
        return found


def held_connections(url: str) -> int:
    with plain_client(url) as client:
        return int(client.get("/_simulator/health").json()["held_connections"])


def test_a_stray_answer_follows_on_the_kept_connection(server: str) -> None:
    with connect(server) as connection:
        post(connection, "X-Simulator-Fault: accept-then-stray")
        connection.settimeout(20)
        received = b""
        while not received.endswith(b"</html>\r\n"):
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 201 ")
    assert received.count(b"HTTP/1.1 429 Stray\r\n") == 1


@pytest.mark.parametrize(
    ("fault", "end"),
    [("accept-then-reset", RESET), ("accept-then-close", "FIN")],
)
def test_a_connection_that_ends_without_an_answer_still_accepted_the_call(server: str, fault: str, end: str) -> None:
    with connect(server) as connection:
        post(connection, f"X-Simulator-Fault: {fault}")
        assert read_to_end(connection) == (b"", end)
    entry = entries(server)[-1]
    assert (entry["fault"], entry["accepted"], entry["answer_status"]) == (fault, True, None)


def test_half_an_answer(server: str) -> None:
    with connect(server) as connection:
        post(connection, "X-Simulator-Fault: accept-then-half-answer")
        received, end = read_to_end(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    (length,) = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
    assert (lines[0], end) == ("http/1.1 201 created", "FIN")
    assert len(body) == length // 2
    assert body.startswith(b'{"account_sid"')
    assert entries(server)[-1]["accepted"] is True


def test_a_hanging_request_ends_when_the_client_disconnects(server: str) -> None:
    with connect(server) as connection:
        post(connection, "X-Simulator-Fault: accept-then-hang")
        wait_until(lambda: held_connections(server))
        entry = entries(server)[-1]
        assert (entry["accepted"], entry["answer_status"]) == (True, None)
        assert select.select([connection], [], [], 0.1) == ([], [], [])
    wait_until(lambda: not held_connections(server))


@pytest.mark.parametrize(("loop", "http"), list(product(LOOPS, HTTP)))
def test_connections_that_the_client_has_closed_raise_no_error(loop: str, http: Http) -> None:
    results: list[object] = []

    async def wait_until_the_client_has_gone(scope: Scope, receive: Receive, _send: Send) -> None:
        if scope["type"] == "http":
            while (await receive())["type"] != "http.disconnect":
                pass
            connection = Connection(receive)
            for end in (connection.detach, connection.reset, connection.close):
                try:
                    results.append(await end())
                except Exception as error:
                    results.append(error)

    with serve_app(wait_until_the_client_has_gone, loop=loop, http=http) as url:
        with connect(url) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: len(results) == 3)
    assert results == [None] * 3


@pytest.mark.parametrize("http", HTTP)
def test_the_server_stops_during_a_hanging_request(http: Http) -> None:
    with serve(SimulatorConfig(open_mode=True), http=http) as url:
        connection = connect(url)
        post(connection, "X-Simulator-Fault: accept-then-hang")
        wait_until(lambda: held_connections(url))
    with connection:
        assert read_to_end(connection)[0] == b""


def test_a_call_is_created_after_its_client_has_disconnected(simulator: Running) -> None:
    with connect(simulator.url) as connection:
        post(connection, "X-Simulator-Fault: slow-accept;seconds=0.2")
        wait_until(lambda: entries(simulator.url))
        assert entries(simulator.url)[0]["accepted"] is False
    wait_until(lambda: entries(simulator.url)[0]["accepted"])
    entry = entries(simulator.url)[0]
    assert (entry["fault"], entry["answer_status"]) == ("slow-accept", 201)


@pytest.mark.parametrize("name", FAULTS)
def test_the_ledger_shows_the_fault_and_the_call(simulator: Running, control: httpx.Client, name: str) -> None:
    status, code = ANSWERS[name]
    header = "slow-accept;seconds=0" if name == "slow-accept" else name
    with connect(simulator.url) as connection:
        post(connection, f"X-Simulator-Fault: {header}", "Connection: close")
        if name != "accept-then-hang":
            received, _ = read_to_end(connection)
            assert received[:12] == (f"HTTP/1.1 {status}".encode() if status else b"")
        else:
            wait_until(lambda: control.get("/health").json()["held_connections"])
    (entry,) = control.get("/ledger").json()["entries"]
    assert entry["fault"] == name
    assert entry["accepted"] is not name.startswith(("refuse-", "proxy-"))
    assert (entry["sid"] is not None, control.get("/health").json()["calls"]) == (entry["accepted"], int(entry["accepted"]))
    assert (entry["answer_status"], entry["answer_code"]) == (status, code)


def test_a_500_or_503_is_the_same_with_and_without_a_call(calls: httpx.Client) -> None:
    for status in (500, 503):
        accepted, refused = (
            calls.post("/Calls.json", data=SIP_DIAL, headers={"X-Simulator-Fault": name})
            for name in (f"accept-then-{status}", f"refuse-{status}")
        )
        assert accepted.json() == refused.json()
        assert refused.json()["status"] == status


@pytest.mark.parametrize("status", PROXY_STATUSES)
def test_a_proxy_page_has_no_header_of_twilio(calls: httpx.Client, status: int) -> None:
    for name in (f"accept-then-{status}", f"proxy-{status}"):
        page = calls.post("/Calls.json", data=SIP_DIAL, headers={"X-Simulator-Fault": name})
        assert (page.status_code, page.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
        assert "Twilio-Request-Id" not in page.headers
    refused = calls.post("/Calls.json", data=SIP_DIAL, headers={"X-Simulator-Fault": "refuse-429"})
    assert refused.headers["Twilio-Request-Id"].startswith("RQ")


def test_broken_bodies(calls: httpx.Client) -> None:
    bodies = {
        name: calls.post("/Calls.json", data=SIP_DIAL, headers={"X-Simulator-Fault": name})
        for name in ("accept-unreadable", "accept-without-sid", "accept-then-502", "accept-then-504")
    }
    with pytest.raises(json.JSONDecodeError):
        bodies["accept-unreadable"].json()
    assert bodies["accept-unreadable"].headers["content-type"] == "application/json"
    assert "sid" not in bodies["accept-without-sid"].json()
    assert bodies["accept-without-sid"].json()["status"] == "queued"
    assert bodies["accept-then-502"].headers["content-type"] == "text/html; charset=utf-8"
    assert "504 Gateway Timeout" in bodies["accept-then-504"].text


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [("refuse-429", None), ("refuse-429-retry-after", "1"), ("refuse-429-retry-after;seconds=7", "7"), ("refuse-503", None)],
)
def test_retry_after(calls: httpx.Client, fault: str, retry_after: str | None) -> None:
    answer = calls.post("/Calls.json", data=SIP_DIAL, headers={"X-Simulator-Fault": fault})
    assert answer.headers.get("Retry-After") == retry_after


def test_a_call_that_is_not_visible_yet(simulator: Running, calls: httpx.Client) -> None:
    header = {"X-Simulator-Fault": "delayed-visibility;seconds=5"}
    sid = calls.post("/Calls.json", data=SIP_DIAL, headers=header).json()["sid"]

    def seen() -> tuple[int, int, list[str]]:
        update = calls.post(f"/Calls/{sid}.json", data={})
        listed = [call["sid"] for call in calls.get("/Calls.json").json()["calls"]]
        return calls.get(f"/Calls/{sid}.json").status_code, update.status_code, listed

    simulator.clock.advance(4.9)
    assert seen() == (404, 404, [])
    simulator.clock.advance(0.1)
    assert seen() == (200, 200, [sid])


@pytest.mark.parametrize(
    ("fault", "early", "late"),
    [(None, "-0.00750", "-0.00750"), ("late-price;seconds=100", None, "-0.00750"), ("price-never", None, None)],
)
def test_late_and_missing_prices(
    simulator: Running, calls: httpx.Client, fault: str | None, early: str | None, late: str | None
) -> None:
    headers = {"X-Simulator-Fault": fault} if fault else {}
    form = SIP_DIAL | {"TimeLimit": "5"}
    sid = calls.post("/Calls.json", data=form, headers=headers).json()["sid"]
    prices = []
    for seconds in (60, 10_000_000):
        simulator.clock.advance(seconds)
        call = calls.get(f"/Calls/{sid}.json").json()
        assert call["status"] == "completed"
        prices.append(call["price"])
    assert prices == [early, late]


def test_the_header_overrides_the_sip_user_which_overrides_a_random_fault(calls: httpx.Client, control: httpx.Client) -> None:
    control.put("/faults", json={"share": 1, "names": ["refuse-403"]}).raise_for_status()
    sip_user = SIP_DIAL | {"To": "sip:fault-refuse-401@example.com;transport=tls"}
    calls.post("/Calls.json", data=sip_user, headers={"X-Simulator-Fault": "refuse-400"})
    calls.post("/Calls.json", data=sip_user)
    calls.post("/Calls.json", data=SIP_DIAL)
    calls.post("/Calls.json", data=SIP_DIAL | {"From": "not a name"})
    faults = [entry["fault"] for entry in control.get("/ledger").json()["entries"]]
    assert faults == ["refuse-400", "refuse-401", "refuse-403", None]


@pytest.mark.parametrize(
    "wrong",
    ["no-such-fault", "refuse-429;seconds=3", "slow-accept;minutes=3", "slow-accept;seconds=x", "slow-accept;seconds=-1"],
)
def test_an_unknown_fault_is_refused(calls: httpx.Client, control: httpx.Client, wrong: str) -> None:
    answer = calls.post("/Calls.json", data=SIP_DIAL, headers={"X-Simulator-Fault": wrong})
    assert (answer.status_code, answer.json()["code"]) == (400, 20422)
    assert control.get("/ledger").json()["accepted"] == 0
    assert control.put("/faults", json={"share": 1, "names": [wrong]}).status_code == 422


def chosen_faults(running: Running, seed: int, names: list[str] | None, *, workers: int) -> dict[str, list[str | None]]:
    """Creates three calls to each of thirty destinations. Returns the fault of each creation, by destination."""
    with plain_client(f"{running.url}/_simulator") as control, running.client(OPEN_SID, "any") as calls:
        control.post("/reset").raise_for_status()
        answer = control.put("/faults", json={"share": 0.3, "names": names, "seed": seed})
        assert control.get("/faults").json() == answer.json() == {"share": 0.3, "names": names, "seed": seed}

        def create_three(to: str) -> None:
            for _ in range(3):
                calls.post("/Calls.json", data=SIP_DIAL | {"To": to})

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(create_three, [f"sip:u{n}@example.com" for n in range(30)]))
        found: dict[str, list[str | None]] = {}
        for entry in control.get("/ledger").json()["entries"]:
            found.setdefault(entry["to"], []).append(entry["fault"])
        return found


def test_a_seed_repeats_the_random_faults_however_concurrent_the_creations(simulator: Running) -> None:
    names = ["refuse-503", "refuse-429", "accept-then-500", "slow-accept;seconds=0"]
    one_by_one = chosen_faults(simulator, 7, names, workers=1)
    assert chosen_faults(simulator, 7, names, workers=8) == one_by_one
    assert chosen_faults(simulator, 8, names, workers=8) != one_by_one
    faults = [fault for three in one_by_one.values() for fault in three]
    assert {*faults} == {None, "refuse-503", "refuse-429", "accept-then-500", "slow-accept"}
    assert 14 <= sum(fault is not None for fault in faults) <= 40
    assert any(len({*three}) > 1 for three in one_by_one.values())


def test_a_reset_removes_all_faults(calls: httpx.Client, control: httpx.Client) -> None:
    control.put("/faults", json={"share": 1, "names": ["refuse-503"]}).raise_for_status()
    assert calls.post("/Calls.json", data=SIP_DIAL).status_code == 503
    control.post("/reset")
    assert control.get("/faults").json()["share"] == 0
    assert calls.post("/Calls.json", data=SIP_DIAL).status_code == 201


def test_every_fault_is_tested_and_documented() -> None:
    assert ANSWERS.keys() == FAULTS.keys()
    table = Path(__file__).parents[2].joinpath("docs/simulator.md").read_text()
    assert [name for name in FAULTS if f"`{name}`" not in table] == []
