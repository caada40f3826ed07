"""Tests the simulator's ledger, which shows the creations that arrived and the calls that they created."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from urllib.parse import urlsplit

import httpx
import pytest

from simulator.config import SimulatorConfig
from tests.simulator.running import OPEN_SID, REGISTERED, Running, plain_client, serve

SIP_DIAL = {"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}


def test_an_entry_shows_the_request_and_the_result(calls: httpx.Client, control: httpx.Client) -> None:
    secret = "s3cret-of-the-callee"
    form = SIP_DIAL | {"SipAuthUsername": "jack", "SipAuthPassword": secret, "Unknown": ""}
    sid = calls.post("/Calls.json", data=form, headers={"Idempotency-Key": "k1", "X-Other": "o"}).json()["sid"]
    answer = control.get("/ledger")
    (entry,) = answer.json()["entries"]
    assert secret not in answer.text
    headers = entry.pop("headers")
    assert headers["idempotency-key"] == "k1"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in headers
    assert "x-other" not in headers
    assert entry == {
        "sequence": 1,
        "received_at": "2026-11-23T23:50:00Z",
        "account_sid": OPEN_SID,
        "credential": OPEN_SID,
        "form": {name: [value] for name, value in form.items()} | {"SipAuthPassword": ["********"]},
        "secret_sha256": {"SipAuthPassword": sha256(secret.encode()).hexdigest()},
        "to": "sip:kate@example.com",
        "from": "Jack",
        "fault": None,
        "accepted": True,
        "accepted_sequence": 1,
        "accepted_at": "2026-11-23T23:50:00Z",
        "sid": sid,
        "answer_status": 201,
        "answer_code": None,
    }


def test_received_and_accepted_counts(simulator: Running, control: httpx.Client) -> None:
    with simulator.client(OPEN_SID, "any") as good, simulator.client(REGISTERED.sid, "wrong") as intruder:
        good.post("/Calls.json", data=SIP_DIAL)
        good.post("/Calls.json", data=SIP_DIAL | {"To": ""})
        intruder.post("/Calls.json", data=SIP_DIAL)
        good.post("/Calls.json", data=SIP_DIAL)
    ledger = control.get("/ledger").json()
    assert (ledger["received"], ledger["accepted"], ledger["forgotten"]) == (4, 2, 0)
    assert [(e["sequence"], e["accepted_sequence"], e["answer_status"]) for e in ledger["entries"]] == [
        (1, 1, 201),
        (2, None, 400),
        (3, None, 401),
        (4, 2, 201),
    ]


def test_only_creations_are_in_the_ledger(calls: httpx.Client, control: httpx.Client) -> None:
    path = f"/Calls/{calls.post('/Calls.json', data=SIP_DIAL).json()['sid']}.json"
    calls.get(path)
    calls.post(path, data={"Status": "canceled"})
    calls.get("/Calls.json")
    assert control.get("/ledger").json()["received"] == 1


def test_requests_are_counted_by_method_and_resource(simulator: Running, control: httpx.Client) -> None:
    with simulator.client(OPEN_SID, "any") as calls, simulator.client(REGISTERED.sid, "wrong") as intruder:
        path = f"/Calls/{calls.post('/Calls.json', data=SIP_DIAL).json()['sid']}"
        for asked in (f"{path}.json", path, "/Calls.json", f"{path}/Events.json"):
            calls.get(asked)
        intruder.get("/Calls.json")
    own = {"POST Calls": 1, "GET Call": 2, "GET Calls": 1, "GET below": 1}
    assert control.get("/requests", params={"account_sid": OPEN_SID}).json() == own
    assert control.get("/requests").json() == own | {"GET Calls": 2}


def test_concurrent_creations_are_each_recorded_once(calls: httpx.Client, control: httpx.Client) -> None:
    def create(n: int) -> str:
        sid: str = calls.post("/Calls.json", data=SIP_DIAL | {"To": f"sip:u{n}@example.com"}).json()["sid"]
        return sid

    with ThreadPoolExecutor(8) as pool:
        sids = list(pool.map(create, range(100)))
    entries = control.get("/ledger").json()["entries"]
    assert {entry["to"]: entry["sid"] for entry in entries} == {f"sip:u{n}@example.com": sid for n, sid in enumerate(sids)}
    assert [entry["sequence"] for entry in entries] == list(range(1, 101))


def test_a_creation_with_an_incomplete_body_is_received_but_not_accepted(simulator: Running, control: httpx.Client) -> None:
    address = urlsplit(simulator.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(
            f"POST /2010-04-01/Accounts/{OPEN_SID}/Calls.json HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\nTo=sip%3Akate".encode()
        )
        while not (entries := control.get("/ledger").json()["entries"]):
            time.sleep(0.01)
    assert [(e["form"], e["accepted"], e["answer_status"]) for e in entries] == [(None, False, None)]


def test_filters_of_the_ledger(simulator: Running, calls: httpx.Client, control: httpx.Client) -> None:
    with simulator.client("AC" + "9" * 32, "any") as other:
        other.post("/Calls.json", data=SIP_DIAL)
    calls.post("/Calls.json", data=SIP_DIAL)
    calls.post("/Calls.json", data=SIP_DIAL | {"To": "sip:ann@example.com"})

    def sequences(query: str) -> list[int]:
        return [entry["sequence"] for entry in control.get(f"/ledger?{query}").json()["entries"]]

    assert sequences(f"account_sid={OPEN_SID}") == [2, 3]
    assert sequences("to=sip:ann@example.com") == [3]
    assert sequences("after=1") == [2, 3]


def test_reset_removes_calls_and_ledger_but_not_registered_accounts(
    simulator: Running, calls: httpx.Client, control: httpx.Client
) -> None:
    sid = calls.post("/Calls.json", data=SIP_DIAL).json()["sid"]
    assert control.get("/health").json() == {"status": "ok", "calls": 1, "held_connections": 0}
    assert control.post("/reset").status_code == 204
    assert control.get("/health").json()["calls"] == 0
    assert control.get("/ledger").json() == {"received": 0, "accepted": 0, "forgotten": 0, "entries": []}
    assert calls.get(f"/Calls/{sid}.json").status_code == 404
    with simulator.client(REGISTERED.sid, "wrong") as intruder:
        assert intruder.get("/Calls.json").status_code == 401


def test_registering_an_account_replaces_its_credentials(simulator: Running, control: httpx.Client) -> None:
    sid = "AC" + "7" * 32
    for token in ("first", "second"):
        answer = control.put(f"/accounts/{sid}", json={"auth_token": token, "api_keys": {"SK1": "s"}})
        assert answer.json() == {
            "sid": sid,
            "has_auth_token": True,
            "has_secondary_auth_token": False,
            "api_keys": ["SK1"],
        }
    statuses = {}
    for token in ("first", "second"):
        with simulator.client(sid, token) as client:
            statuses[token] = client.get("/Calls.json").status_code
    assert statuses == {"first": 401, "second": 200}
    assert control.put("/accounts/AC1", json={}).status_code == 422


def test_the_oldest_entries_are_dropped_but_the_counts_stay_exact() -> None:
    path = f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json"
    with (
        serve(SimulatorConfig(open_mode=True, max_calls=2)) as url,
        plain_client(url, auth=(OPEN_SID, "any")) as client,
    ):
        sids = [client.post(path, data=SIP_DIAL).json()["sid"] for _ in range(3)]
        ledger = client.get("/_simulator/ledger").json()
        listed = [call["sid"] for call in client.get(path).json()["calls"]]
    assert (ledger["received"], ledger["accepted"], ledger["forgotten"]) == (3, 3, 1)
    assert [entry["sid"] for entry in ledger["entries"]] == sids[1:]
    assert listed == sids[:0:-1]


def test_a_seed_makes_sids_repeat() -> None:
    def first_sid(seed: int) -> str:
        with (
            serve(SimulatorConfig(open_mode=True, seed=seed)) as url,
            plain_client(url, auth=(OPEN_SID, "any")) as client,
        ):
            sid: str = client.post(f"/2010-04-01/Accounts/{OPEN_SID}/Calls.json", data=SIP_DIAL).json()["sid"]
            return sid

    assert first_sid(1) == first_sid(1) != first_sid(2)


@pytest.mark.parametrize("wrong", [{"speed": 0}, {"price_delay_s": -1}, {"max_calls": 0}])
def test_an_invalid_configuration_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        SimulatorConfig(**wrong)  # type: ignore[arg-type]  # a table of fields of several types
