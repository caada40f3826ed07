"""Invalid requests get a precise problem+json. Nothing is stored and nothing is sent."""

import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from twilio.rest.api.v2010.account.call import CallList

from app.calls.parameters import CallParameters
from tests.support.gateway import BASIC_CALL, URLS_WITH_MANY_USER_NAMES, Gateway, Tenant
from tests.support.upstream import Upstream

DATA = Path(__file__).parent.parent / "data" / "twilio_create_call_parameters.json"
NO_SOURCE = {"to": BASIC_CALL["to"], "from": BASIC_CALL["from"]}


async def _nothing_happened(tenant: Tenant, upstream: Upstream) -> None:
    assert upstream.received == []
    assert (await tenant.http.get("/v1/calls")).json() == {"calls": [], "next_cursor": None}


FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing at all": ({}, {"/to", "/from", "/url"}),
    "no from": ({"to": "sip:kate@example.com", "url": "http://e.example/"}, {"/from"}),
    "no url, twiml or application_sid": (NO_SOURCE, {"/url"}),
    "unknown members, by name": (BASIC_CALL | {"if_machine": "Hangup", "a/b~c": 1}, {"/if_machine", "/a~1b~0c"}),
    "unknown members with pydantic's names": (BASIC_CALL | {"bool": 1, "literal[x]": 1}, {"/bool", "/literal[x]"}),
    "client with an escaped NUL": (BASIC_CALL | {"to": "client:a%00b", "from": "client:jack"}, {"/to"}),
    "client with an escaped NUL in an escape": (BASIC_CALL | {"to": "client:a%2500b", "from": "client:jack"}, {"/to"}),
    "client as the caller with an escaped line end": (BASIC_CALL | {"to": "client:kate", "from": "client:a%0Ab"}, {"/from"}),
    "SIP address with a NUL in escapes of escapes": (BASIC_CALL | {"to": "sip:kate%25%2530%2530@example.com"}, {"/to"}),
    "number as text": (BASIC_CALL | {"timeout": "60"}, {"/timeout"}),
    "boolean as number": (BASIC_CALL | {"record": 1}, {"/record"}),
    "timeout too long": (BASIC_CALL | {"timeout": 601}, {"/timeout"}),
    "timeout zero": (BASIC_CALL | {"timeout": 0}, {"/timeout"}),
    "twiml too long": (NO_SOURCE | {"twiml": "x" * 4001}, {"/twiml"}),
    "twiml empty": (NO_SOURCE | {"twiml": ""}, {"/twiml"}),
    "url not absolute": (BASIC_CALL | {"url": "/sipdial.xml"}, {"/url"}),
    "url of another scheme": (BASIC_CALL | {"url": "ftp://e.example/"}, {"/url"}),
    "url with a line break": (BASIC_CALL | {"url": "http://e.example/\r\nHost: x"}, {"/url"}),
    "callback host with an underscore": (BASIC_CALL | {"status_callback": "https://a_b.example/"}, {"/status_callback"}),
    "method PUT": (BASIC_CALL | {"method": "PUT"}, {"/method"}),
    "unknown event": (BASIC_CALL | {"status_callback_event": ["ringing", "sung"]}, {"/status_callback_event/1"}),
    "event named twice": (BASIC_CALL | {"status_callback_event": ["ringing", "ringing"]}, {"/status_callback_event"}),
    "many wrong events": (BASIC_CALL | {"status_callback_event": [0] * 20_000}, {"/status_callback_event"}),
    "many URLs with user names": (
        BASIC_CALL | {"url": "https://example.com/?" + "&".join(f"a=https://u{number}@b" for number in range(30))},
        {"/url"},
    ),
    "many URLs with user names in several texts": (
        BASIC_CALL | URLS_WITH_MANY_USER_NAMES,
        {""},
    ),
    "events as text": (BASIC_CALL | {"status_callback_event": "ringing completed"}, {"/status_callback_event"}),
    "invalid digits": (BASIC_CALL | {"send_digits": "12x"}, {"/send_digits"}),
    "digits and a line break": (BASIC_CALL | {"send_digits": "12\n"}, {"/send_digits"}),
    "too many digits": (BASIC_CALL | {"send_digits": "1" * 33}, {"/send_digits"}),
    "application_sid of another kind": (NO_SOURCE | {"application_sid": "AC" + "0" * 32}, {"/application_sid"}),
    "byoc of another kind": (BASIC_CALL | {"byoc": "XX"}, {"/byoc"}),
    "channels": (BASIC_CALL | {"recording_channels": "stereo"}, {"/recording_channels"}),
    "trim": (BASIC_CALL | {"trim": "yes"}, {"/trim"}),
    "machine_detection": (BASIC_CALL | {"machine_detection": "enable"}, {"/machine_detection"}),
    "speech threshold": (
        BASIC_CALL | {"machine_detection_speech_threshold": 999, "machine_detection_speech_end_threshold": 5001},
        {"/machine_detection_speech_threshold", "/machine_detection_speech_end_threshold"},
    ),
    "six passports": (BASIC_CALL | {"passports": "a,b,c,d,e,f"}, {"/passports"}),
    "async_amd": (BASIC_CALL | {"async_amd": "yes"}, {"/async_amd"}),
    "NUL in a text": (BASIC_CALL | {"call_reason": "a\0b"}, {"/call_reason"}),
    "SIP URI without a host": (BASIC_CALL | {"to": "sip:kate@"}, {"/to"}),
    "SIP URI with a space": (BASIC_CALL | {"to": "sip:ka te@example.com"}, {"/to"}),
    "SIP URI with a line break": (BASIC_CALL | {"to": "sip:kate@example.com\r\nX: y"}, {"/to"}),
    "SIP URI with an escaped line break": (BASIC_CALL | {"to": "sip:kate@example.com?X-a=b%0d%0aEvil:%20c"}, {"/to"}),
    "SIP URI of 255 characters": (BASIC_CALL | {"to": "sip:" + "k" * 239 + "@example.com"}, {"/to"}),
    "SIP headers of 1024 characters": (BASIC_CALL | {"to": "sip:kate@example.com?X-a=" + "b" * 1020}, {"/to"}),
    "SIP transport sctp": (BASIC_CALL | {"to": "sip:kate@example.com;transport=sctp"}, {"/to"}),
    "SIP secure=yes": (BASIC_CALL | {"to": "sip:kate@example.com;secure=yes"}, {"/to"}),
    "from with a space, for SIP": (BASIC_CALL | {"from": "Jack B"}, {"/from"}),
    "SIP user without password": (BASIC_CALL | {"sip_auth_username": "jack"}, {"/sip_auth_password"}),
    "SIP user too long": (
        BASIC_CALL | {"sip_auth_username": "j" * 256, "sip_auth_password": "p" * 256},
        {"/sip_auth_username", "/sip_auth_password"},
    ),
    "SIP credential and SIP user": (
        BASIC_CALL | {"sip_credential": "pbx", "sip_auth_username": "jack", "sip_auth_password": "p"},
        {"/sip_credential"},
    ),
    "unknown SIP credential": (BASIC_CALL | {"sip_credential": "pbx"}, {"/sip_credential"}),
    "from too long": (BASIC_CALL | {"from": "J" * 256}, {"/from"}),
    "NUL in a secret": (BASIC_CALL | {"call_token": "a\0b"}, {"/call_token"}),
    "to of no known form": (BASIC_CALL | {"to": "kate"}, {"/to"}),
    "to as a number": (BASIC_CALL | {"to": 14155550100}, {"/to"}),
    "phone number with spaces": (BASIC_CALL | {"to": "+1 415 555 0100"}, {"/to"}),
    "from that cannot call a phone": (BASIC_CALL | {"to": "+14155550100", "from": "Jack"}, {"/from"}),
    "account_sid of another kind": (BASIC_CALL | {"account_sid": "AC1"}, {"/account_sid"}),
    "many faults at once": (
        {"to": "sip:kate@", "from": "Jack B", "timeout": 0, "colour": "red"},
        {"/to", "/from", "/timeout", "/colour", "/url"},
    ),
}


@pytest.mark.parametrize(("body", "pointers"), FAULTS.values(), ids=FAULTS.keys())
async def test_every_fault_is_reported_with_its_pointer(
    tenant: Tenant, upstream: Upstream, body: dict[str, Any], pointers: set[str]
) -> None:
    response = await tenant.http.post("/v1/calls", json=body)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:callgate:problem:invalid-request"
    assert (problem["execution"], problem["retry"]["safe"]) == ("not_started", True)
    assert {error["pointer"] for error in problem["errors"]} == pointers
    assert all(error["code"] and error["detail"] for error in problem["errors"])
    await _nothing_happened(tenant, upstream)


BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "not JSON": (b'{"to": ', "application/json", 400, "malformed-body"),
    "empty": (b"", "application/json", 400, "malformed-body"),
    "not UTF-8": (b'{"to": "\xff"}', "application/json", 400, "malformed-body"),
    "NaN": (b'{"timeout": NaN}', "application/json", 400, "malformed-body"),
    "a member twice": (b'{"to": "sip:a@b.example", "to": "sip:c@d.example"}', "application/json", 400, "malformed-body"),
    "nested too deeply": (b'{"a":' * 9000 + b"1" + b"}" * 9000, "application/json", 400, "malformed-body"),
    "a lone surrogate": (b'{"to": "\\ud800"}', "application/json", 422, "invalid-request"),
    "a number too long to read": (b'{"timeout": ' + b"9" * 5000 + b"}", "application/json", 400, "malformed-body"),
    "nested as deeply as can be read": (b'{"a":' + b"[" * 961 + b"]" * 961 + b"}", "application/json", 400, "malformed-body"),
    "a surrogate in a secret": (
        b'{"to": "+14155550100", "from": "+14155550199", "url": "http://e.example/", "call_token": "\\ud800"}',
        "application/json",
        422,
        "invalid-request",
    ),
    "an array": (b"[]", "application/json", 422, "invalid-request"),
    "text": (b"{}", "text/plain", 415, "unsupported-media-type"),
    "a form": (b"To=sip:a@b.example", "application/x-www-form-urlencoded", 415, "unsupported-media-type"),
    "no type": (b"{}", "", 415, "unsupported-media-type"),
    "too large": (b"{" + b" " * 70_000 + b"}", "application/json", 413, "body-too-large"),
}


@pytest.mark.parametrize(("body", "content_type", "status", "slug"), BODIES.values(), ids=BODIES.keys())
async def test_a_body_that_cannot_be_parsed_is_refused(
    tenant: Tenant, upstream: Upstream, body: bytes, content_type: str, status: int, slug: str
) -> None:
    response = await tenant.http.post("/v1/calls", content=body, headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["type"]) == (status, f"urn:callgate:problem:{slug}")
    assert response.json()["execution"] == "not_started"
    await _nothing_happened(tenant, upstream)


async def test_a_chunked_body_that_is_too_large_is_refused_while_it_arrives(tenant: Tenant, upstream: Upstream) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b" " * 1024

    response = await tenant.http.post("/v1/calls", content=chunks(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["type"]) == (413, "urn:callgate:problem:body-too-large")
    await _nothing_happened(tenant, upstream)


async def test_a_suspended_tenant_can_read_but_not_place_calls(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=True)
    gateway.invalidate_cache()
    response = await tenant.create()
    assert (response.status_code, response.json()["type"]) == (403, "urn:callgate:problem:tenant-suspended")
    await _nothing_happened(tenant, upstream)
    await gateway.tenants.set_tenant_suspended(tenant.id, suspended=False)
    gateway.invalidate_cache()
    assert (await tenant.create()).status_code == 201


async def test_a_tenant_without_usable_credentials_is_refused(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    response = await tenant.create()
    assert (response.status_code, response.json()["type"]) == (409, "urn:callgate:problem:no-usable-credentials")
    assert (await tenant.http.get("/v1/calls")).json()["calls"] == []


async def test_another_tenants_account_cannot_be_used(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    other = await gateway.add_tenant(upstream.url)
    response = await tenant.create(account_sid=other.account_sid)
    assert response.status_code == 409
    await _nothing_happened(tenant, upstream)


async def test_the_named_account_places_the_call(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    second = "AC" + "b" * 32
    await gateway.tenants.add_credential(tenant.id, account_sid=second, secret="s", key_sid=None, base_url=upstream.url)
    gateway.invalidate_cache()
    assert (await tenant.create()).json()["account_sid"] == tenant.account_sid
    assert (await tenant.create(account_sid=second)).json()["account_sid"] == second
    assert [request.path.split("/")[3] for request in upstream.posts] == [tenant.account_sid, second]


async def test_a_revoked_credential_is_never_used(gateway: Gateway, tenant: Tenant, upstream: Upstream) -> None:
    (_, credentials), *_ = await gateway.tenants.list_accounts(tenant.id)
    await gateway.tenants.revoke_credential(tenant.id, credentials[0].id)
    gateway.invalidate_cache()
    assert (await tenant.create()).status_code == 409
    assert upstream.received == []


async def test_unknown_paths_and_methods_get_a_problem(tenant: Tenant) -> None:
    missing = await tenant.http.get("/v1/nothing")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:callgate:problem:not-found")
    wrong = await tenant.http.delete("/v1/calls")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "urn:callgate:problem:method-not-allowed")
    assert "GET" in wrong.headers["Allow"]


async def test_a_path_that_ends_in_a_line_break_is_not_found(tenant: Tenant, upstream: Upstream) -> None:
    """Expects a 404. The router's `$` would match the path, but other checks would not see that it is a creation."""
    form = {"To": BASIC_CALL["to"], "From": BASIC_CALL["from"], "Url": BASIC_CALL["url"]}
    for response in (
        await tenant.http.post("/v1/calls%0A", json=BASIC_CALL),
        await tenant.http.post(f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json%0A", data=form),
    ):
        assert response.status_code == 404
    await _nothing_happened(tenant, upstream)


async def test_the_clients_request_id_is_kept_if_it_is_valid(tenant: Tenant) -> None:
    kept = await tenant.http.get("/v1/nothing", headers={"X-Request-Id": "job-17:3"})
    assert (kept.headers["X-Request-Id"], kept.json()["request_id"]) == ("job-17:3", "job-17:3")
    replaced = await tenant.http.get("/v1/nothing", headers={"X-Request-Id": "a b" * 100})
    assert len(replaced.headers["X-Request-Id"]) == 32


EVERY_PARAMETER: dict[str, Any] = {
    "to": "sip:kate@example.com;transport=tcp?X-hatchkey=4815162342",
    "from": "Jack",
    "method": "GET",
    "fallback_url": "http://www.example.com/fallback.xml",
    "fallback_method": "GET",
    "status_callback": "https://www.example.com/progress",
    "status_callback_event": ["initiated", "ringing", "answered", "completed"],
    "status_callback_method": "POST",
    "send_digits": "ww1234#A*W",
    "timeout": 600,
    "record": True,
    "recording_channels": "dual",
    "recording_status_callback": "https://www.example.com/recorded",
    "recording_status_callback_method": "GET",
    "recording_configuration_id": "configuration",
    "sip_auth_username": "jack",
    "sip_auth_password": "secret",
    "machine_detection": "DetectMessageEnd",
    "machine_detection_timeout": 30,
    "recording_status_callback_event": ["in-progress", "absent"],
    "trim": "do-not-trim",
    "caller_id": "+14155550100",
    "machine_detection_speech_threshold": 1000,
    "machine_detection_speech_end_threshold": 500,
    "machine_detection_silence_timeout": 2000,
    "async_amd": "true",
    "async_amd_status_callback": "https://www.example.com/amd",
    "async_amd_status_callback_method": "POST",
    "passports": "cGFzc3BvcnQ=",
    "byoc": "BY" + "1" * 32,
    "call_reason": "Your order is ready",
    "call_token": "inbound-token",
    "recording_track": "inbound",
    "time_limit": 3600,
    "client_notification_url": "https://www.example.com/push",
    "url": "http://www.example.com/sipdial.xml",
    "twiml": "<Response/>",
    "application_sid": "AP" + "2" * 32,
}


async def test_every_parameter_of_the_installed_sdk_is_accepted_and_sent_as_by_the_sdk(
    tenant: Tenant, upstream: Upstream
) -> None:
    own = {field.alias or name for name, field in CallParameters.model_fields.items()}
    sdk = {"from" if name == "from_" else name for name in inspect.signature(CallList.create).parameters} - {"self"}
    assert own == sdk == EVERY_PARAMETER.keys()
    response = await tenant.http.post("/v1/calls", json=EVERY_PARAMETER)
    assert response.status_code == 201, response.text
    sent = upstream.posts[0].form
    assert ("StatusCallbackEvent", "ringing") in sent
    assert ("Record", "true") in sent
    assert ("SipAuthPassword", "secret") in sent
    assert ("To", EVERY_PARAMETER["to"]) in sent
    lists = sum(len(value) - 1 for value in EVERY_PARAMETER.values() if isinstance(value, list))
    assert len(sent) == len(EVERY_PARAMETER) + lists
    spec = {_camel(name) for name in EVERY_PARAMETER}
    assert {name for name, _ in sent} == spec


async def test_parameters_that_twilio_ignores_get_a_warning(tenant: Tenant) -> None:
    record = (await tenant.http.post("/v1/calls", json=EVERY_PARAMETER)).json()
    ignored = {warning["pointer"] for warning in record["warnings"] if warning["code"] == "ignored"}
    assert {"/twiml", "/status_callback", "/machine_detection", "/byoc"} <= ignored


async def test_the_guides_header_without_x_is_accepted_with_a_warning(tenant: Tenant, upstream: Upstream) -> None:
    to = "sip:michael@example.com?mycustomheader=foo&myotherheader=bar"
    response = await tenant.create(to=to)
    assert response.status_code == 201
    assert {warning["pointer"] for warning in response.json()["warnings"]} == {"/to"}
    assert ("To", to) in upstream.posts[0].form


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


async def test_phone_numbers_and_clients_can_be_called(tenant: Tenant) -> None:
    assert (await tenant.create(to="+14155550100", **{"from": "+14155550199"})).status_code == 201
    assert (await tenant.create(to="client:kate", **{"from": "client:jack"})).status_code == 201
    assert (await tenant.create(to="client:kate?note=a%0Ab%00", **{"from": "client:jack"})).status_code == 201


def test_the_documented_parameters_are_those_of_twilios_openapi() -> None:
    names = json.loads(DATA.read_text())
    assert {_camel(field.alias or name) for name, field in CallParameters.model_fields.items()} == set(names)


async def test_query_parameters_of_a_creation_are_refused_and_not_sent(tenant: Tenant, upstream: Upstream) -> None:
    response = await tenant.http.post("/v1/calls?ring_by=2026-12-24T18:00:00Z&timeout=30&timeout=60", json=BASIC_CALL)
    faults = [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]]
    assert (response.status_code, faults) == (422, [("?ring_by", "unknown_parameter"), ("?timeout", "unknown_parameter")])
    assert (response.json()["execution"], response.json()["retry"]["safe"]) == ("not_started", True)
    await _nothing_happened(tenant, upstream)
    assert (await tenant.http.post("/v1/calls?", json=BASIC_CALL)).status_code == 201


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/calls/{id}"),
        ("GET", "/v1/calls/{id}/events"),
        ("GET", "/v1/calls/{id}/deliveries"),
        ("PATCH", "/v1/calls/{id}"),
        ("POST", "/v1/calls/{id}/deliveries/{id}/retry"),
        ("POST", "/v1/deliveries/replay"),
        ("POST", "/v1/sip-uris"),
    ],
)
async def test_query_parameters_that_a_route_does_not_have_are_refused(tenant: Tenant, method: str, path: str) -> None:
    call_id = (await tenant.create()).json()["id"]
    response = await tenant.http.request(method, path.replace("{id}", call_id) + "?status=completed", json={})
    assert (response.status_code, response.json()["errors"]) == (
        422,
        [{"pointer": "?status", "code": "unknown_parameter", "detail": "is no parameter of this route"}],
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/v1/calls/{id}", {"twiml": "<Response/>"}),
        ("POST", "/v1/calls/{id}/deliveries/{id}/retry", None),
        ("POST", "/v1/deliveries/replay", {"since": "2026-01-01T00:00:00Z"}),
    ],
)
async def test_changes_that_are_not_idempotent_refuse_a_key(
    tenant: Tenant, upstream: Upstream, method: str, path: str, body: dict[str, Any] | None
) -> None:
    call_id = (await tenant.create()).json()["id"]
    response = await tenant.http.request(method, path.replace("{id}", call_id), json=body, headers={"Idempotency-Key": "k"})
    faults = [(fault["pointer"], fault["code"]) for fault in response.json()["errors"]]
    assert (response.status_code, faults) == (422, [("Idempotency-Key", "not_supported")])
    assert len(upstream.received) == 1


async def test_a_key_given_twice_is_refused(tenant: Tenant, upstream: Upstream) -> None:
    response = await tenant.http.post(
        "/v1/calls", json=BASIC_CALL, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    )
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "repeated")
    await _nothing_happened(tenant, upstream)


async def test_unsupported_methods_of_other_routes_get_405(tenant: Tenant) -> None:
    for method, path in (("PUT", "/openapi.json"), ("POST", "/docs"), ("DELETE", "/readyz")):
        response = await tenant.http.request(method, path)
        assert (response.status_code, response.json()["type"]) == (405, "urn:callgate:problem:method-not-allowed")
    assert (await tenant.http.get("/v1/calls/")).status_code == 404
