"""Tests subresources under /v1, which have JSON requests and answers, and the events that they add to a call."""

from typing import Any

import pytest

from app.twilio.subresources import SUBRESOURCE_OPERATIONS, SubresourceOperation
from tests.subresources.conftest import LiveCall
from tests.support.gateway import Gateway
from tests.support.upstream import hang, running_upstream

HOOK = "http://www.example.com/hook"
URLS_WITH_USERS = [f"https://u{number}:p@h.example" for number in range(9)]
CREATIONS = {
    "recordings": {"recording_channels": "dual", "recording_status_callback_event": ["completed", "absent"]},
    "payments": {"status_callback": HOOK, "charge_amount": "9.99", "parameter": {"order": 471147114711}, "security_code": True},
    "transcriptions": {"name": "fork", "partial_results": False},
    "siprec": {"name": "fork", "parameters": {"order": "471147114711"}},
    "streams": {"name": "fork", "url": "wss://www.example.com/media", "parameters": {"order": "471147114711", "till": "7"}},
    "user_defined_messages": {"content": '{"secret": "do not log"}'},
    "user_defined_message_subscriptions": {"callback": HOOK},
}
UPDATES = {
    "recordings": {"status": "paused", "pause_behavior": "skip"},
    "payments": {"status_callback": HOOK, "capture": "security-code"},
    "transcriptions": {"status": "stopped"},
    "siprec": {"status": "stopped"},
    "streams": {"status": "stopped"},
}


@pytest.mark.parametrize("name", CREATIONS)
async def test_each_is_created_changed_and_deleted_with_events(call: LiveCall, name: str) -> None:
    http, path = call.tenant.http, f"/v1/calls/{call.id}/{name}"
    created = await http.post(path, json=CREATIONS[name])
    assert created.status_code == (200 if name in ("transcriptions", "siprec", "streams") else 201), created.text
    sid = created.json()["sid"]
    happened = [("create", "done")]
    if name in UPDATES:
        changed = await http.patch(f"{path}/{sid}", json=UPDATES[name])
        assert (changed.status_code, changed.json()["sid"]) == (202 if name == "payments" else 200, sid)
        assert name == "payments" or changed.json()["status"] == UPDATES[name]["status"]
        happened.append(("update", "done"))
    if name in ("recordings", "user_defined_message_subscriptions"):
        deleted = await http.delete(f"{path}/{sid}")
        assert (deleted.status_code, deleted.content) == (204, b"")
        assert (await http.delete(f"{path}/{sid}")).json()["type"] == "urn:callgate:problem:subresource-not-found"
        happened += [("delete", "done"), ("delete", "not_done")]
    events = await call.events(name.removesuffix("s"))
    assert [(event["action"], event["result"]) for event in events[::2]] == [(action, "sent") for action, _ in happened]
    assert [(event["action"], event["result"]) for event in events[1::2]] == happened
    assert events[1] == {"action": "create", "result": "done", "status": created.status_code, "sid": sid}
    assert "471147114711" not in str(events)
    assert "do not log" not in str(events)


async def test_page_uris_of_a_list_point_to_this_api(call: LiveCall) -> None:
    http, path = call.tenant.http, f"/v1/calls/{call.id}/recordings"
    made = [(await http.post(path, json={})).json()["sid"] for _ in range(3)]
    first = (await http.get(path, params={"page_size": 2, "date_created_after": "2026-01-01"})).json()
    assert [one["sid"] for one in first["recordings"]] == made[:0:-1]
    assert first["next_page_uri"] == f"{path}?date_created_after=2026-01-01&page_size=2&page=1&page_token=PA1"
    second = (await http.get(first["next_page_uri"])).json()
    assert [one["sid"] for one in second["recordings"]] == made[:1]
    assert second["next_page_uri"] is None
    back = (await http.get(second["previous_page_uri"])).json()
    assert back["recordings"] == first["recordings"]
    one = (await http.get(f"{path}/{made[0]}")).json()
    assert (one["sid"], one["call_sid"]) == (made[0], call.sid)


async def test_twilios_events_and_callgates_have_different_paths(call: LiveCall) -> None:
    http = call.tenant.http
    twilios = (await http.get(f"/v1/calls/{call.sid}/twilio_events")).json()
    assert twilios["events"][0]["response"]["response_code"] == 201
    ours = (await http.get(f"/v1/calls/{call.sid}/events")).json()
    assert ours["events"][0]["type"] == "call.pending"
    sid = await call.add_notification(error_code="15003")
    listed = (await http.get(f"/v1/calls/{call.sid}/notifications?log=1")).json()["notifications"]
    assert [one["sid"] for one in listed] == [sid]
    assert (await http.get(f"/v1/calls/{call.sid}/notifications/{sid}")).json()["error_code"] == "15003"


async def test_the_audio_of_a_recording_is_returned(call: LiveCall) -> None:
    http, path = call.tenant.http, f"/v1/calls/{call.id}/recordings"
    sid = (await http.post(path, json={})).json()["sid"]
    sound = await http.get(f"{path}/{sid}/media?format=wav&requested_channels=1")
    assert (sound.status_code, sound.content[:4]) == (200, b"RIFF")
    assert sound.headers["content-length"] == str(len(sound.content))
    part = await http.get(f"{path}/{sid}/media", headers={"Range": "bytes=8-11"})
    assert (part.status_code, part.content) == (206, b"WAVE")
    for wrong in (f"{path}/RE{sid[2:]}%3fx/media", f"{path}/{sid}/media?format=ogg"):
        assert (await http.get(wrong)).status_code == 422
    missing = await http.get(f"{path}/RE{'0' * 32}/media")
    assert (missing.status_code, missing.json()["upstream"]["code"]) == (404, 20404)


async def test_a_recording_of_another_call_is_not_found_below_this_one(call: LiveCall) -> None:
    http = call.tenant.http
    other = (await call.tenant.create(to="sip:forever@example.com")).json()
    sid = (await http.post(f"/v1/calls/{call.id}/recordings", json={})).json()["sid"]
    for path in (f"recordings/{sid}", f"recordings/{sid}/media"):
        assert (await http.get(f"/v1/calls/{call.id}/{path}")).status_code == 200
        assert (await http.get(f"/v1/calls/{other['id']}/{path}")).status_code == 404


async def test_the_audio_of_a_deleted_call_is_returned_below_the_account(call: LiveCall) -> None:
    http, calls = call.tenant.http, f"/v1/calls/{call.id}"
    sid = (await http.post(f"{calls}/recordings", json={})).json()["sid"]
    assert (await http.patch(calls, json={"status": "completed"})).status_code == 200
    assert (await http.delete(f"{call.uri}.json")).status_code == 204
    assert (await http.get(f"{calls}/recordings/{sid}/media")).status_code == 404
    for below in (f"{sid}.wav", f"{sid}.mp3", sid):
        sound = await http.get(f"/2010-04-01/Accounts/{call.tenant.account_sid}/Recordings/{below}")
        assert (sound.status_code, sound.content[:4]) == (200, b"RIFF")


@pytest.mark.parametrize(
    ("name", "body", "pointers"),
    [
        ("streams", {}, ["/url"]),
        ("streams", {"url": "wss://x", "parameters": {str(n): "v" for n in range(100)}}, ["/parameters"]),
        (
            "recordings",
            {"recording_status_callback_method": "PUT", "colour": 1},
            ["/recording_status_callback_method", "/colour"],
        ),
        ("payments", {"status_callback": 1, "timeout": "9"}, ["/status_callback", "/timeout"]),
        ("user_defined_messages", {"content": "x\0"}, ["/content"]),
    ],
)
async def test_invalid_members_are_refused_by_name(
    call: LiveCall, name: str, body: dict[str, object], pointers: list[str]
) -> None:
    answer = await call.tenant.http.post(f"/v1/calls/{call.id}/{name}", json=body)
    assert answer.status_code == 422
    assert sorted(fault["pointer"] for fault in answer.json()["errors"]) == sorted(pointers)
    assert await call.events(name.removesuffix("s")) == []


@pytest.mark.parametrize(
    ("method", "name", "members"),
    [
        ("POST", "payments", {"status_callback": HOOK, "parameter": {"x": URLS_WITH_USERS}}),
        ("POST", "siprec", {"parameters": {str(number): url for number, url in enumerate(URLS_WITH_USERS)}}),
        ("GET", "notifications", {"page_token": " ".join(URLS_WITH_USERS[:5]), "message_date": " ".join(URLS_WITH_USERS[5:])}),
    ],
)
async def test_many_urls_with_user_names_are_refused(call: LiveCall, method: str, name: str, members: dict[str, Any]) -> None:
    sent: dict[str, Any] = {"json": members} if method == "POST" else {"params": members}
    answer = await call.tenant.http.request(method, f"/v1/calls/{call.id}/{name}", **sent)
    assert (answer.status_code, [fault["code"] for fault in answer.json()["errors"]]) == (422, ["too_many_user_names"])


async def test_a_misspelt_or_repeated_filter_is_refused(call: LiveCall) -> None:
    path = f"/v1/calls/{call.id}/recordings"
    for query in ("datecreated=2026-01-01", "page_size=two", "page=1&page=2"):
        answer = await call.tenant.http.get(f"{path}?{query}")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"?{query.partition('=')[0]}")


async def test_thousands_of_filters_are_refused_with_one_error(call: LiveCall) -> None:
    query = "&".join(f"{number:x}" for number in range(12_000))
    for path in (f"/v1/calls/{call.id}/recordings", f"/v1/calls/{call.id}", "/v1/calls"):
        answer = await call.tenant.http.get(f"{path}?{query}")
        errors = [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]]
        assert (answer.status_code, errors) == (422, [("?", "too_many_parameters")])


async def test_a_call_that_was_not_started_has_no_subresources(gateway: Gateway) -> None:
    async with running_upstream(hang) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        assert record["execution"] == "unknown"
        for operation in SUBRESOURCE_OPERATIONS:
            answer = await tenant.http.request(*_request(operation, record["id"]))
            assert (answer.status_code, answer.json()["type"]) == (409, "urn:callgate:problem:wrong-call-state")
            assert answer.json()["call_id"] == record["id"]
        assert len(upstream.received) == 1


async def test_a_suspended_tenant_may_only_stop_and_read(gateway: Gateway, simulator_url: str) -> None:
    tenant = await gateway.add_tenant(simulator_url)
    record = (await tenant.create(to="sip:forever@example.com")).json()
    path = f"/v1/calls/{record['id']}/recordings"
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
    gateway.invalidate_cache()
    assert (await tenant.http.post(path, json={})).json()["type"] == "urn:callgate:problem:tenant-suspended"
    assert (await tenant.http.get(path)).status_code == 200
    assert (await tenant.http.patch(f"{path}/Twilio.CURRENT", json={"status": "stopped"})).status_code == 404


def _request(operation: SubresourceOperation, call_id: str) -> tuple[str, str]:
    name = "twilio_events" if operation.subresource.segment == "Events" else operation.subresource.snake_case_name
    one = "/RE" + "0" * 32 if operation.targets_item else ""
    return {"update": "PATCH"}.get(operation.action, operation.method), f"/v1/calls/{call_id}/{name}{one}"
