"""Callgate accepts only genuine callbacks of Twilio, and applies each only once, in any order and in any replica."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from twilio.request_validator import RequestValidator

from app.callbacks.fields import FormFields
from app.callbacks.signature import signing_auth_token
from app.twilio.schemas import Credential
from tests.support.callbacks import PUBLIC_URL, call_back, callback_path, status_callback_fields
from tests.support.clients import http_client, metric_value
from tests.support.gateway import Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Behaviour, created, error, running_upstream

VECTOR_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
VECTOR_FORM = "CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309"


@pytest.fixture(scope="module")
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(settings_for(database_url, public_url=PUBLIC_URL)) as running:
        yield running


@dataclass
class LiveCall:
    """A call that has started, with its tenant."""

    gateway: Gateway
    tenant: Tenant
    id: str
    sid: str

    def fields(self, status: str, sequence: int | None = None, **more: str) -> dict[str, str]:
        return status_callback_fields(self.tenant, {"sid": self.sid}, status, sequence, **more)

    async def send_callback(self, status: str, sequence: int | None = None, **more: str) -> int:
        response = await call_back(self.gateway, self.tenant, self.id, self.fields(status, sequence, **more))
        return response.status_code

    async def record(self) -> dict[str, Any]:
        record: dict[str, Any] = (await self.tenant.http.get(f"/v1/calls/{self.id}")).raise_for_status().json()
        return record

    async def callbacks(self) -> list[dict[str, Any]]:
        return [event["data"] for event in await self.tenant.events(self.id) if event["type"] == "call.callback"]

    async def statuses(self) -> list[str]:
        return [event["data"]["status"] for event in await self.tenant.events(self.id) if event["type"] == "call.status"]


@pytest.fixture
async def live(gateway: Gateway) -> AsyncIterator[LiveCall]:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        record = (await tenant.create()).json()
        yield LiveCall(gateway, tenant, record["id"], record["sid"])


async def _count(gateway: Gateway, result: str) -> float:
    return await metric_value(gateway.url, f'callgate_callbacks_total{{result="{result}"}}')


# Vectors of Twilio, from the tests of its Python package: https://www.twilio.com/docs/usage/security#validating-requests
VECTORS = {
    "https": (VECTOR_URL, VECTOR_FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    "repeated keys": (
        VECTOR_URL,
        "Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234&Digits=1234",
        "IK+Dwps556ElfBT0I3Rgjkr1wJU=",
    ),
    "https with a port": (VECTOR_URL.replace(".com", ".com:1234"), VECTOR_FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
    "http with a port": (
        VECTOR_URL.replace("https", "http").replace(".com", ".com:1234"),
        VECTOR_FORM,
        "Zmvh+3yNM1Phv2jhDCwEM3q5ebU=",
    ),
    "https signed with its port": (VECTOR_URL, VECTOR_FORM, "kvajT1Ptam85bY51eRf/AJRuM3w="),
    "http signed with its port": (VECTOR_URL.replace("https", "http"), VECTOR_FORM, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
    "the documentation's": (
        "https://example.com/myapp.php?foo=1&bar=2",
        "CallSid=CA1234567890ABCDE&Caller=%2B14158675310&Digits=1234&From=%2B14158675310&To=%2B18005551212",
        "L/OH5YylLD5NRKLltdqwSvS0BnU=",
    ),
}


def auth_token(token: str) -> Credential:
    return Credential("AC" + "1" * 32, "AC" + "1" * 32, SecretStr(token))


@pytest.mark.parametrize(("url", "form", "signature"), VECTORS.values(), ids=VECTORS.keys())
def test_twilios_published_signatures_are_genuine_and_altered_requests_are_not(url: str, form: str, signature: str) -> None:
    fields = FormFields.parse(form)
    another, token = auth_token("another"), auth_token("12345")
    assert signing_auth_token(url, fields, signature, [another, token]) == token
    assert signing_auth_token(url, fields, signature, [another]) is None
    assert signing_auth_token(url + "3", fields, signature, [token]) is None
    assert signing_auth_token(url, FormFields.parse(form + "&Digits=9"), signature, [token]) is None
    assert signing_auth_token(url, fields, signature[:-2] + "A=", [token]) is None


@pytest.mark.parametrize("url", ["https://[::1]/x", "https://user:pw@host:1/x", f"{VECTOR_URL}&bodySHA256=x", "https://[/x"])
@pytest.mark.parametrize("signature", ["", "nonsense", "ünsigned"])
def test_malformed_signatures_and_odd_urls_are_not_genuine(url: str, signature: str) -> None:
    assert signing_auth_token(url, FormFields.parse(VECTOR_FORM), signature, [auth_token("12345")]) is None


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_callbacks_signed_by_twilios_package_are_accepted(live: LiveCall, method: str) -> None:
    odd: dict[str, str | list[str]] = {
        "Name": "Žofie & Ümit = 😀",
        "Empty": "",
        "Repeated": ["b", "a", "b"],
        "lower": "1",
        "Lower": "2",
    }
    fields: dict[str, str | list[str]] = {**live.fields("ringing", 1), **odd}
    answer = await call_back(live.gateway, live.tenant, live.id, fields, method=method)
    assert (answer.status_code, answer.content) == (204, b"")
    (kept,) = await live.callbacks()
    assert kept == fields | {"Repeated": "b"}
    assert (await live.record())["status"] == "ringing"


async def test_the_signature_covers_the_query(live: LiveCall) -> None:
    answer = await call_back(live.gateway, live.tenant, live.id, live.fields("ringing"), query="a=1&b=%20")
    assert answer.status_code == 204


async def test_the_signature_is_checked_with_the_public_url_and_not_with_forwarded_headers(live: LiveCall) -> None:
    fields, path = live.fields("ringing", 1), await callback_path(live.gateway, live.id)
    signature = RequestValidator(live.tenant.auth_token).compute_signature(f"https://evil.example{path}", fields)
    headers = {"X-Twilio-Signature": signature, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    async with http_client(base_url=live.gateway.url) as http:
        assert (await http.post(path, data=fields, headers=headers | {"Host": "evil.example"})).status_code == 403


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_a_body_over_64_kib_is_refused(live: LiveCall, chunked: bool) -> None:
    body, path = b"a=" + b"x" * 65_536, await callback_path(live.gateway, live.id)
    headers = {"X-Twilio-Signature": VECTORS["https"][2]}

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    async with http_client(base_url=live.gateway.url) as http:
        answer = await http.post(path, content=pieces() if chunked else body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:callgate:problem:body-too-large")


async def test_the_record_gets_its_fields_and_the_event_keeps_all(live: LiveCall) -> None:
    end = {
        "CallDuration": "12",
        "Direction": "outbound-api",
        "SipResponseCode": "200",
        "RecordingUrl": "https://api.twilio.com/recordings/RE1",
        "AddedByTwilioOneDay": "yes",
        "AnsweredBy": "human",
        "CallerName": "Kate",
    }
    assert await live.send_callback("initiated", 0) == 204
    assert await live.send_callback("completed", 3, **end) == 204
    record = await live.record()
    shown = (record["status"], record["duration"], record["direction"], record["answered_by"], record["caller_name"])
    assert shown == ("completed", 12, "outbound-api", "human", "Kate")
    assert await live.callbacks() == [live.fields("initiated", 0), live.fields("completed", 3, **end)]


async def test_hostile_values_are_stored_as_far_as_possible(live: LiveCall) -> None:
    odd = {"Nul": "a\0b", "CallDuration": "9" * 40, "Direction": "x" * 1000}
    numbers = ("-1", "1" * 40, "4294967296", "1.5", "²", "")
    for number in numbers:
        fields = live.fields("ringing") | odd | {"SequenceNumber": number}
        assert (await call_back(live.gateway, live.tenant, live.id, fields)).status_code == 204
    assert len(await live.callbacks()) == len(numbers)
    assert (await live.record())["duration"] is None


async def test_a_repetition_is_answered_and_only_counted(live: LiveCall) -> None:
    before = await _count(live.gateway, "duplicate")
    for _ in range(3):
        assert await live.send_callback("ringing", 1, Timestamp="now") == 204
    # The sequence number identifies a callback; without one, all of its fields do.
    assert await live.send_callback("ringing", 1, Timestamp="later") == 204
    for _ in range(2):
        assert await live.send_callback("in-progress", Timestamp="now") == 204
    assert await live.send_callback("in-progress", Timestamp="later") == 204
    assert await _count(live.gateway, "duplicate") == before + 4
    kept = [(fields["CallStatus"], fields["Timestamp"]) for fields in await live.callbacks()]
    assert kept == [("ringing", "now"), ("in-progress", "now"), ("in-progress", "later")]


PROGRESS = (("initiated", 0), ("ringing", 1), ("in-progress", 2), ("completed", 3))


@pytest.mark.parametrize("order", list(itertools.permutations(PROGRESS)), ids=lambda order: "".join(str(n) for _, n in order))
async def test_the_status_only_goes_forward_in_any_order(live: LiveCall, order: tuple[tuple[str, int], ...]) -> None:
    for status, sequence in order:
        assert await live.send_callback(status, sequence) == 204
    assert (await live.record())["status"] == "completed"
    assert {fields["SequenceNumber"] for fields in await live.callbacks()} == {"0", "1", "2", "3"}
    seen = [dict(PROGRESS)[status] for status in await live.statuses()]
    assert seen == sorted(seen)


async def test_a_lower_number_is_late_even_with_an_unknown_status(live: LiveCall) -> None:
    before = await _count(live.gateway, "late")
    await live.send_callback("in-progress", 5, CallerName="Kate")
    await live.send_callback("whispering", 4, CallerName="Jill", ForwardedFrom="+14155550100")
    record = await live.record()
    assert (record["status"], record["caller_name"]) == ("in-progress", "Kate")
    assert record["forwarded_from"] == "+14155550100"
    assert await _count(live.gateway, "late") == before + 1


@pytest.mark.parametrize("sequence", [9, None])
async def test_a_terminal_status_never_changes(live: LiveCall, sequence: int | None) -> None:
    await live.send_callback("no-answer", 2)
    for status in ("completed", "ringing", "failed", "in-progress"):
        await live.send_callback(status, sequence, CallDuration="7", Word=status)
    record = await live.record()
    assert (record["status"], record["duration"]) == ("no-answer", None)
    assert await live.statuses() == ["no-answer"]


async def test_a_callback_with_another_sid_changes_no_status_and_hides_no_later_callback(live: LiveCall) -> None:
    foreign = live.fields("completed", 1) | {"CallSid": "CA" + "f" * 32}
    for _ in range(2):
        assert (await call_back(live.gateway, live.tenant, live.id, foreign)).status_code == 204
    assert await live.send_callback("ringing", 1) == 204
    assert (await live.record())["status"] == "ringing"
    types = [event["type"] for event in await live.tenant.events(live.id)]
    assert types[2:] == ["call.callback", "call.second_sid", "call.callback", "call.status"]


@pytest.mark.parametrize(
    ("behaviour", "event", "metric"),
    [
        (error(400, 21211), "execution_corrected", "callgate_corrected_total"),
        (created(), "second_sid", "callgate_second_sid_total"),
    ],
)
async def test_an_unexpected_call_is_reported_once_however_often_its_callback_is_applied(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], behaviour: Behaviour, event: str, metric: str
) -> None:
    async with running_upstream(behaviour) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        answer = (await tenant.create()).json()
    call_id, before = answer.get("call_id") or answer["id"], await metric_value(gateway.url, metric)
    writes = "SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND query LIKE $1"
    async with gateway.database.begin() as session:
        await session.execute(text("SELECT FROM call WHERE id = :id FOR UPDATE"), {"id": call_id})
        reported = status_callback_fields(tenant, {"sid": f"CA{uuid4().hex}"}, "ringing", 1)
        applying = asyncio.create_task(call_back(gateway, tenant, call_id, reported))
        attempts: set[datetime] = set()
        async with asyncio.timeout(60):
            while len(attempts) < 3:
                rows = await gateway.database.fetch(writes, "%(item ->> 'version')::xid%")
                attempts |= {row["query_start"] for row in rows}
    assert (await applying).status_code == 204
    assert await metric_value(gateway.url, metric) - before == 1
    assert capsys.readouterr().out.count(event) == 1


async def test_two_replicas_take_each_concurrent_callback_once(gateway: Gateway, database_url: str) -> None:
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(running_gateway(settings_for(database_url, public_url=PUBLIC_URL)))
        upstream = await stack.enter_async_context(running_upstream(created()))
        tenant = await gateway.add_tenant(upstream.url)
        records = [(await tenant.create(status_callback="https://own.example.com/")).json() for _ in range(8)]
        paths = [await callback_path(gateway, record["id"]) for record in records]
        sending = [
            call_back(
                gateway,
                tenant,
                record["id"],
                status_callback_fields(tenant, record, status, sequence),
                url=replica.url,
                path=path,
            )
            for record, path in zip(records, paths, strict=True)
            for status, sequence in PROGRESS
            for replica in (gateway, other, gateway, other)
        ]
        random.Random(5).shuffle(sending)  # noqa: S311  # a seed makes it repeatable
        answers = await asyncio.gather(*sending)
        assert {answer.status_code for answer in answers} == {204}
        for record in records:
            live = LiveCall(gateway, tenant, record["id"], record["sid"])
            assert sorted(fields["SequenceNumber"] for fields in await live.callbacks()) == ["0", "1", "2", "3"]
            assert (await live.record())["status"] == "completed"
            seen = [dict(PROGRESS)[status] for status in await live.statuses()]
            assert seen == sorted(seen)
        async with gateway.database.begin() as session:
            written = await session.execute(
                text("SELECT event, count(*) FROM delivery WHERE tenant_id = :id GROUP BY event"), {"id": tenant.id}
            )
            assert dict(written.all()) == {"completed": len(records)}
