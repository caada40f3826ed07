"""`POST /v1/sip-uris` and `callgate sip check` give the same explanation for any text."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream

DATA = Path(__file__).parent.parent / "data" / "sip" / "public.jsonl"
# Cases where Callgate's verdict differs; docs/sip.md says why.
OUR_VERDICT = {"sip-0147": "reject"}
CASES = [
    case | {"gateway": OUR_VERDICT.get(case["id"], case["gateway"])} for case in map(json.loads, DATA.read_text().splitlines())
]


@pytest.fixture
async def tenant(gateway: Gateway) -> Tenant:
    return await gateway.add_tenant()


async def _explained(tenant: Tenant, uri: str) -> dict[str, Any]:
    response = await tenant.http.post("/v1/sip-uris", json={"uri": uri})
    assert response.status_code == 200, response.text
    explanation: dict[str, Any] = response.json()
    return explanation


async def test_a_valid_address_is_parsed(tenant: Tenant) -> None:
    explained = await _explained(tenant, "sip:Kate@Example.COM.:5061;transport=tls?X-a=b%20c")
    assert explained["valid"]
    assert explained["parsed"]["host"] == "example.com"
    assert explained["parsed"]["port"] == 5061
    assert explained["parsed"]["headers"] == [["X-a", "b c"]]
    assert {finding["severity"] for finding in explained["findings"]} <= {"policy", "warning"}


async def test_an_invalid_address_is_explained_without_its_password(tenant: Tenant) -> None:
    explained = await _explained(tenant, "sip:alice:s3cret@example.com")
    assert not explained["valid"]
    (finding,) = [finding for finding in explained["findings"] if finding["severity"] == "error"]
    assert "sip_auth_password" in finding["detail"]
    assert "s3cret" not in json.dumps(explained)


@pytest.mark.parametrize("body", [{}, {"uri": 7}, {"uri": "sip:a@b.example", "url": 1}, {"uri": None}])
async def test_a_body_of_another_shape_is_refused(tenant: Tenant, body: dict[str, Any]) -> None:
    response = await tenant.http.post("/v1/sip-uris", json=body)
    assert (response.status_code, response.json()["type"]) == (422, "urn:callgate:problem:invalid-request")


async def test_public_cases_get_their_verdict_over_http(tenant: Tenant) -> None:
    for case in CASES[::5]:
        try:
            content = json.dumps({"uri": case["uri"]}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            content = json.dumps({"uri": case["uri"]}).encode()
        response = await tenant.http.post("/v1/sip-uris", content=content, headers={"Content-Type": "application/json"})
        if any("\ud800" <= character <= "\udfff" for character in case["uri"]):
            assert response.status_code == 422, case["id"]
            continue
        assert response.status_code == 200, case["id"]
        assert response.json()["valid"] is (case["gateway"] != "reject"), case["id"]


async def test_creations_refuse_exactly_the_addresses_with_an_error(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for case in CASES[::5]:
            before = len(upstream.posts)
            status = (await tenant.create(to=case["uri"])).status_code
            accepted = case["gateway"] != "reject"
            assert status == (201 if accepted else 422), case["id"]
            assert len(upstream.posts) - before == accepted, case["id"]
            if accepted:
                assert ("To", case["uri"]) in upstream.posts[-1].form


async def _check(given: bytes) -> tuple[int, list[dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "sip", "check", "-", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(given)
    return process.returncode or 0, [json.loads(line) for line in out.splitlines()]


async def test_the_command_explains_each_line_given_as_text_or_json_string() -> None:
    code, explained = await _check(b'sip:kate@example.com\n"sip:kate@example.com"\r\n\nsip:jack@example.com;transport=tls\n')
    assert code == 0
    assert [line["valid"] for line in explained] == [True, True, True]
    assert explained[0] == explained[1]
    assert explained[0].keys() == {"uri", "valid", "findings", "parsed"}


async def test_the_command_exits_with_1_if_any_line_has_an_error() -> None:
    code, explained = await _check(
        b'sip:kate@example.com\n"sip:a@b.example\\r\\nX: y"\nsip:\xff\xfe@b.example\n"not closed\n7\n'
    )
    assert code == 1
    assert [line["valid"] for line in explained] == [True, False, False, False, False]


async def test_the_command_agrees_with_every_public_case() -> None:
    _, explained = await _check(b"".join(json.dumps(case["uri"]).encode() + b"\n" for case in CASES))
    assert [line["valid"] for line in explained] == [case["gateway"] != "reject" for case in CASES]
