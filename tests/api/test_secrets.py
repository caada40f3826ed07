"""Planted secrets appear nowhere: not in logs, errors, metrics, traces or records, nor in any column of any table."""

import io
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus

import asyncpg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import make_url, text

from app.deliveries.addresses import AllowList
from app.deliveries.sender import DeliveryHttpClient
from app.jobs.deliver import DeliverySender
from app.observability import Metrics
from app.security.keyring import Keyring
from app.tenants.delivery_signing import SigningSettingsCache
from tests.support.callbacks import PUBLIC_URL, call_back, status_callback_fields
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.logs import logging_to
from tests.support.tracing import in_memory_tracing
from tests.support.upstream import Behaviour, Upstream, answer, call_resource, created, error, hang, reset, running_upstream

SIP_PASSWORD = "pl4nted-s1p-p4ssw0rd"
CALL_TOKEN = "pl4nted-c4ll-t0ken"
URL_USER = "pl4nted-us3r"
URL_PASSWORD = "pl4nted-url-p4ssw0rd"
TWIML_SIP_USER = "pl4nted-tw1ml-us3r"
TWIML_SIP_PASSWORD = "pl4nted-tw1ml-p4ss"
URI_PASSWORD = "pl4nted-ur1-p4ss"
TWIML = (
    f"<Response><Play>https://{URL_USER}:{URL_PASSWORD}@www.example.com/a.mp3</Play>"
    f'<Dial><Sip username="{TWIML_SIP_USER}" password="{TWIML_SIP_PASSWORD}">sip:kate.private@example.com</Sip>'
    f"<Sip>sip:kate.private:{URI_PASSWORD}@example.com</Sip></Dial></Response>"
)
AUTH_TOKEN = "pl4nted-twilio-t0ken"
FORM_PASSWORD = "pl4nted&f0rm=p4ss"
STORED_SIP_USER = "pl4nted-st0red-us3r"
STORED_SIP_PASSWORD = "pl4nted-st0red-p4ss"
SECRETS = (SIP_PASSWORD, CALL_TOKEN, URL_USER, URL_PASSWORD, AUTH_TOKEN, FORM_PASSWORD, quote_plus(FORM_PASSWORD))
PERSONAL = ("+14155550123", "kate.private")

REQUEST = {
    "to": "sip:kate.private@example.com",
    "from": "Jack",
    "url": f"https://{URL_USER}:{URL_PASSWORD}@www.example.com/dial.xml",
    "sip_auth_username": "jack",
    "sip_auth_password": SIP_PASSWORD,
    "call_token": CALL_TOKEN,
}


@dataclass
class InstrumentedGateway:
    """A gateway whose log (at debug level) and trace spans a test can read."""

    gateway: Gateway
    log: io.StringIO
    spans: InMemorySpanExporter

    def lines(self) -> list[dict[str, Any]]:
        """Returns the lines of the log that describe a request."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == "request"]


@asynccontextmanager
async def instrumented(database_url: str, **values: Any) -> AsyncIterator[InstrumentedGateway]:
    log = io.StringIO()
    tracing, spans = in_memory_tracing()
    settings = settings_for(database_url, log_level="DEBUG", public_url=PUBLIC_URL, delivery_allow="127.0.0.0/8", **values)
    with logging_to(log):
        async with running_gateway(settings, tracing=tracing) as gateway:
            yield InstrumentedGateway(gateway, log, spans)


@pytest.fixture
async def watched(database_url: str) -> AsyncIterator[InstrumentedGateway]:
    async with instrumented(database_url) as running:
        yield running


async def every_cell(url: str) -> str:
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {"call", "call_event_default", "twilio_credential"} <= {table["tablename"] for table in tables}
        rows = [row for (table,) in tables for row in await connection.fetch(f'SELECT t::text FROM "{table}" t')]  # noqa: S608
    finally:
        await connection.close()
    return "\n".join(row for (row,) in rows)


async def test_planted_secrets_appear_nowhere(watched: InstrumentedGateway, database_url: str) -> None:
    gateway, answers = watched.gateway, list[str]()
    echoed = f"SipAuthPassword is bad, token {CALL_TOKEN}, Url {REQUEST['url']}, key {AUTH_TOKEN}"
    echo = error(400, 21224, f"{echoed} as {quote_plus(FORM_PASSWORD)}")
    stored_echo = error(400, 21224, f"{STORED_SIP_USER} with {STORED_SIP_PASSWORD} is bad")
    script = (created(), echo, error(401, 20003), reset, hang, error(500, 20500), created(), stored_echo)
    async with running_upstream(*script) as upstream:
        tenant = await gateway.add_tenant()
        await gateway.tenants.add_credential(
            tenant.id, account_sid="AC" + "f" * 32, secret=AUTH_TOKEN, key_sid=None, base_url=upstream.url
        )
        own = {"account_sid": "AC" + "f" * 32}
        for key in "abcdef":
            other = {"sip_auth_password": FORM_PASSWORD} if key == "b" else {}
            response = await tenant.http.post("/v1/calls", json=REQUEST | own | other, headers={"Idempotency-Key": key})
            answers += [response.text, str(response.headers)]
        await gateway.tenants.create_sip_credential(tenant.id, "pbx", username=STORED_SIP_USER, password=STORED_SIP_PASSWORD)
        for _ in range(2):
            answers.append((await tenant.create(sip_credential="pbx", **own)).text)
        faulty = REQUEST | {
            "to": f"sip:kate:{SIP_PASSWORD}@example.com",
            "sip_auth_password": SIP_PASSWORD + "\x01",
            "timeout": 0,
        }
        answers.append((await tenant.http.post("/v1/calls", json=faulty)).text)
        sent = upstream.posts[0].form
    assert ("SipAuthPassword", SIP_PASSWORD) in sent
    assert ("SipAuthPassword", STORED_SIP_PASSWORD) in upstream.posts[-1].form
    assert ("Url", REQUEST["url"]) in sent
    assert upstream.posts[0].credentials[1] == AUTH_TOKEN
    listed = await tenant.http.get("/v1/calls")
    assert len(listed.json()["calls"]) == 8
    answers.append(listed.text)
    answers += [(await tenant.http.get(f"/v1/calls/{call['id']}/events")).text for call in listed.json()["calls"]]
    answers.append((await tenant.http.get("/metrics")).text)
    spans = [span.to_json() for span in watched.spans.get_finished_spans()]
    assert len(spans) > len(answers)
    callback_secret = await gateway.tenants.renew_callback_secret(tenant.id)
    stored = await every_cell(database_url)
    assert "kate.private" in stored
    for secret in (
        *SECRETS,
        STORED_SIP_USER,
        STORED_SIP_PASSWORD,
        tenant.key,
        callback_secret,
        callback_secret.removeprefix("whsec_"),
    ):
        assert secret not in watched.log.getvalue()
        assert secret not in stored
        assert secret.encode().hex() not in stored
        assert not any(secret in text for text in answers + spans)


def _lower_hex(secret: str) -> str:
    return re.sub("%..", lambda escape: escape[0].lower(), quote_plus(secret))


def _spelled(secret: str) -> list[str]:
    return [spelling(secret) for spelling in (str, quote, quote_plus, _lower_hex)]


def echoing(status: int, document: Callable[[str], Any], **headers: str) -> Behaviour:
    """Returns a behaviour of the stand-in for Twilio: it answers with all secrets of the request, in several encodings."""

    async def behave(upstream: Upstream, *streams: Any) -> None:
        request = upstream.received[-1]
        user, password = request.credentials
        secrets = [value for _, value in request.form] + [password] + [URL_USER, URL_PASSWORD] * bool(request.form)
        text_ = " ".join([*(spelling for value in secrets for spelling in _spelled(value)), request.headers["authorization"]])
        headers_ = {"Twilio-Request-Id": password, **headers}
        await answer(status, document(f"{text_} of {user}"), headers=headers_)(upstream, *streams)

    return behave


def _no(code: int) -> Callable[[str], Any]:
    # Long enough for the message limit to cut a secret in two.
    return lambda echo: {"code": code, "message": "m" * 990 + echo, "more_info": echo}


async def test_secrets_that_twilio_echoes_are_neither_stored_nor_logged_nor_returned(
    watched: InstrumentedGateway, database_url: str
) -> None:
    sid = "CA" + "5" * 32
    resource = partial(call_resource, sid)
    subresource = {"sid": "RE" + "1" * 32}
    script = (
        echoing(201, lambda echo: resource(caller_name=echo, annotation=echo, added={"by": [echo], echo: echo})),
        *(echoing(status, _no(code)) for status, code in ((400, 21224), (401, 20003), (429, 20429), (500, 20500))),
        echoing(200, lambda echo: resource(status="in-progress", caller_name=echo)),
        echoing(400, _no(21220)),
        echoing(201, lambda echo: subresource | {"name": echo, "nested": [{echo: echo}]}),
        echoing(400, _no(20001)),
        *(echoing(200, lambda echo: {"recordings": [subresource | {"name": echo}]}) for _ in range(2)),
        echoing(404, _no(20404)),
    )
    async with running_upstream(*script) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        path, twilios = f"/v1/calls/{sid}", f"/2010-04-01/Accounts/{tenant.account_sid}/Calls/{sid}"
        stream = {"url": f"wss://{URL_USER}:{URL_PASSWORD}@example.com/", "name": "n"}
        creation = REQUEST | {"twiml": TWIML, "sip_auth_password": FORM_PASSWORD}
        requests: list[tuple[str, str, Any]] = [
            *[("POST", "/v1/calls", creation)] * 4,
            *[("PATCH", path, change) for change in ({"url": REQUEST["url"]}, {"twiml": TWIML})],
            *[("POST", f"{path}/streams", stream)] * 2,
            *[("GET", url, None) for url in (f"{path}/recordings", f"{twilios}/Recordings.json")],
            *[("GET", url, None) for url in (f"{path}/recordings/RE{'1' * 32}", path, f"{path}/events", "/v1/calls")],
        ]
        answers = [await tenant.http.request(method, url, json=body) for method, url, body in requests]
        assert len(upstream.received) == len(script)
    statuses = [response.status_code for response in answers]
    assert statuses == [201, 422, 502, 202, 200, 409, 201, 422, 200, 200, 404, 200, 200, 200]
    assert answers[0].json()["sid"] == sid
    stored = await every_cell(database_url)
    assert "***" in stored
    basic = b64encode(f"{tenant.account_sid}:{tenant.auth_token}".encode()).decode().rstrip("=")
    spans = "".join(span.to_json() for span in watched.spans.get_finished_spans())
    everything = "".join(
        [stored, watched.log.getvalue(), spans, *(f"{response.text} {response.headers}" for response in answers)]
    )
    of_twiml = (TWIML_SIP_USER, TWIML_SIP_PASSWORD, URI_PASSWORD)
    for secret in (CALL_TOKEN, URL_USER, URL_PASSWORD, *of_twiml, tenant.auth_token, basic, *_spelled(FORM_PASSWORD)):
        assert secret not in everything


@pytest.mark.parametrize("url_user", ["1000", "api", "user", "twilio"])
async def test_twilios_answer_is_shown_whole_although_a_part_of_it_equals_a_secret(
    watched: InstrumentedGateway, url_user: str
) -> None:
    address, sent_at = "sip:1000@pbx.example.com", "Wed, 18 Aug 2010 20:01:40 +0000"
    resource = call_resource(**{"to": address, "from": "2010", "date_created": sent_at})
    refused = error(400, 21205, f"Url of {address} by {url_user} is bad")
    async with running_upstream(answer(201, resource), answer(200, resource), refused) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        calls = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls"
        url = f"https://{url_user}:2010@www.example.com/"
        form = {"To": address, "From": "2010", "Url": url, "SipAuthUsername": "1000", "SipAuthPassword": "1000"}
        for path, fields in ((f"{calls}.json", form), (f"{calls}/{resource['sid']}.json", {"Url": url})):
            shown = (await tenant.http.post(path, data=fields)).json()
            for name in ("to", "from", "status", "direction", "api_version", "date_created", "uri", "subresource_uris"):
                assert shown[name] == resource[name]
        problem = (await tenant.http.post(f"{calls}.json", data=form)).json()
    assert problem["more_info"] == "https://www.twilio.com/docs/errors/21205"
    assert problem["message"] == "Url of sip:***@pbx.example.com by *** is bad"


async def test_the_signing_secret_of_deliveries_is_shown_only_once(watched: InstrumentedGateway, database_url: str) -> None:
    gateway = watched.gateway
    signing = SigningSettingsCache(gateway.database, Keyring(gateway.settings.require_secret_keys()))
    async with (
        running_upstream(created(), answer(500, "no")) as upstream,
        DeliveryHttpClient(AllowList.parse("127.0.0.0/8")) as sender,
    ):
        tenant = await gateway.add_tenant(upstream.url)
        secrets = [await gateway.tenants.renew_callback_secret(tenant.id)]
        record = (await tenant.create(status_callback=f"{upstream.url}/kate.private")).json()
        await call_back(
            gateway, tenant, record["id"], status_callback_fields(tenant, record, "completed", 3, To="sip:kate.private@x.org")
        )
        deliverer = DeliverySender(gateway.database, signing, sender, Metrics())
        for callback_format in ("twilio", "json"):
            await gateway.tenants.configure_callbacks(tenant.id, callback_format=callback_format)
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE delivery SET next_attempt_at = now()"))
            await deliverer.step()
            await deliverer.drain()
            secrets.append(await gateway.tenants.renew_callback_secret(tenant.id))
        listed = (await tenant.http.get(f"/v1/calls/{record['id']}/deliveries")).text
    assert '"attempts":2' in listed
    assert watched.log.getvalue().count("delivery_failed") == 2
    stored = await every_cell(database_url)
    for secret in secrets:
        for shape in (secret, secret.removeprefix("whsec_"), secret.encode().hex()):
            assert shape not in watched.log.getvalue() + stored + listed
    assert "kate.private" not in watched.log.getvalue()


async def test_personal_data_is_neither_logged_nor_traced(watched: InstrumentedGateway) -> None:
    async with running_upstream(created(), reset) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        await tenant.create(to="+14155550123", **{"from": "+14155550123"})
        await tenant.create(to="sip:kate.private@example.com?X-Name=kate.private")
        await tenant.http.get("/v1/calls", params={"to": "+14155550123"})
    assert [line["route"] for line in watched.lines()] == ["/v1/calls"] * 3
    spans = "".join(span.to_json() for span in watched.spans.get_finished_spans())
    for personal in PERSONAL:
        assert personal not in watched.log.getvalue()
        assert personal not in spans


async def test_the_log_line_of_a_creation_has_its_ids_and_pseudonyms_for_personal_data(watched: InstrumentedGateway) -> None:
    async with running_upstream(created(), error(400, 21211), created()) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        started = await tenant.create(to="sip:kate.private@example.com;transport=tcp", **{"from": "+14155550123"})
        await tenant.create(to="+14155550123", **{"from": "+14155550199"})
        await tenant.create(to="sips:+14155550123@example.com", **{"from": "kate.private"})
    first, second, third = watched.lines()
    assert (
        first.items()
        >= {
            "call_id": started.json()["id"],
            "call_sid": started.json()["sid"],
            "execution": "started",
            "method": "POST",
            "request_id": started.headers["X-Request-Id"],
            "route": "/v1/calls",
            "status": 201,
            "tenant_id": tenant.id,
        }.items()
    )
    assert {"ms", "upstream_ms", "database_ms", "trace_id", "timestamp"} <= first.keys()
    assert first["ms"] >= first["upstream_ms"] + first["database_ms"] > 0
    number, user = first["from"], third["from"]
    assert all(re.fullmatch("tok_[0-9a-f]{12}", pseudonym) for pseudonym in (number, user, second["from"]))
    assert first["to"] == f"sip:{user}@example.com"
    assert (second["to"], third["to"]) == (number, f"sips:{number}@example.com")
    assert len({number, user, second["from"]}) == 3
    assert (second["problem"], second["status"]) == ("upstream-rejected", 422)


async def test_operators_can_choose_to_log_phone_numbers(database_url: str) -> None:
    async with instrumented(database_url, log_pii=True) as watched, running_upstream(created()) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        await tenant.create(to="sip:kate.private@example.com?X-A=1", **{"from": "+14155550123"})
    (line,) = watched.lines()
    assert (line["to"], line["from"]) == ("sip:kate.private@example.com?X-A=1", "+14155550123")


async def test_every_response_has_a_server_timing_header(watched: InstrumentedGateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await watched.gateway.add_tenant(upstream.url)
        timing = (await tenant.create()).headers["Server-Timing"]
        assert re.fullmatch(r"gateway;dur=[\d.]+, database;dur=[\d.]+, upstream;dur=[\d.]+", timing)
        assert re.fullmatch(r"gateway;dur=[\d.]+", (await tenant.http.get("/livez")).headers["Server-Timing"])
