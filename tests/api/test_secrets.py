"""A planted secret must appear nowhere: not in logs, errors, metrics, records, or any column of any table."""

import io
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote_plus

import asyncpg
import pytest
from sqlalchemy import make_url, text

from app.callbacks.addresses import Allowed
from app.callbacks.sender import Sender
from app.crypto import Keyring
from app.jobs.deliver import Deliverer
from app.observability import Metrics, configure_logging
from app.tenants.callbacks import TenantCallbacks
from tests.support.callbacks import PUBLIC_URL, call_back, progress
from tests.support.gateway import Gateway, running_gateway, settings_for
from tests.support.upstream import answer, created, error, hang, reset, running_upstream

SIP_PASSWORD = "pl4nted-s1p-p4ssw0rd"
CALL_TOKEN = "pl4nted-c4ll-t0ken"
URL_PASSWORD = "pl4nted-url-p4ssw0rd"
AUTH_TOKEN = "pl4nted-twilio-t0ken"
FORM_PASSWORD = "pl4nted&f0rm=p4ss"
SECRETS = (SIP_PASSWORD, CALL_TOKEN, URL_PASSWORD, AUTH_TOKEN, FORM_PASSWORD, quote_plus(FORM_PASSWORD))
PERSONAL = ("+14155550123", "kate.private")

REQUEST = {
    "to": "sip:kate.private@example.com",
    "from": "Jack",
    "url": f"https://user:{URL_PASSWORD}@www.example.com/dial.xml",
    "sip_auth_username": "jack",
    "sip_auth_password": SIP_PASSWORD,
    "call_token": CALL_TOKEN,
}


@pytest.fixture
async def logged(database_url: str) -> AsyncIterator[tuple[Gateway, io.StringIO]]:
    """A gateway that logs everything it can, and what it logged."""
    log = io.StringIO()
    configure_logging(level="DEBUG", format_="json", stream=log)
    async with running_gateway(
        settings_for(database_url, log_level="DEBUG", public_url=PUBLIC_URL, delivery_allow="127.0.0.0/8")
    ) as gateway:
        yield gateway, log
    logging.basicConfig(handlers=[], force=True)


async def _every_cell(url: str) -> str:
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert {"call", "call_event_default", "twilio_credential"} <= {table["tablename"] for table in tables}
        rows = [row for (table,) in tables for row in await connection.fetch(f'SELECT t::text FROM "{table}" t')]  # noqa: S608
    finally:
        await connection.close()
    return "\n".join(row for (row,) in rows)


async def test_planted_secrets_appear_nowhere(logged: tuple[Gateway, io.StringIO], database_url: str) -> None:
    gateway, log = logged
    told: list[str] = []
    echoed = f"SipAuthPassword is bad, token {CALL_TOKEN}, Url {REQUEST['url']}, key {AUTH_TOKEN}"
    echo = error(400, 21224, f"{echoed} as {quote_plus(FORM_PASSWORD)}")
    async with running_upstream(created(), echo, error(401, 20003), reset, hang, error(500, 20500)) as upstream:
        tenant = await gateway.add_tenant()
        await gateway.tenants.add_credential(
            tenant.id, account_sid="AC" + "f" * 32, secret=AUTH_TOKEN, key_sid=None, base_url=upstream.url
        )
        own = {"account_sid": "AC" + "f" * 32}
        for key in "abcdef":
            other = {"sip_auth_password": FORM_PASSWORD} if key == "b" else {}
            response = await tenant.http.post("/v1/calls", json=REQUEST | own | other, headers={"Idempotency-Key": key})
            told += [response.text, str(response.headers)]
        faulty = REQUEST | {
            "to": f"sip:kate:{SIP_PASSWORD}@example.com",
            "sip_auth_password": SIP_PASSWORD + "\x01",
            "timeout": 0,
        }
        told.append((await tenant.http.post("/v1/calls", json=faulty)).text)
        sent = upstream.posts[0].form
    assert ("SipAuthPassword", SIP_PASSWORD) in sent
    assert ("Url", REQUEST["url"]) in sent
    assert upstream.posts[0].credentials[1] == AUTH_TOKEN
    listed = await tenant.http.get("/v1/calls")
    assert len(listed.json()["calls"]) == 6
    told.append(listed.text)
    told += [(await tenant.http.get(f"/v1/calls/{call['id']}/events")).text for call in listed.json()["calls"]]
    told.append((await tenant.http.get("/metrics")).text)
    stored = await _every_cell(database_url)
    assert "kate.private" in stored
    for secret in (*SECRETS, tenant.key):
        assert secret not in log.getvalue()
        assert secret not in stored
        assert secret.encode().hex() not in stored
        assert not any(secret in text for text in told)


async def test_the_secret_that_signs_deliveries_appears_nowhere_but_once(
    logged: tuple[Gateway, io.StringIO], database_url: str
) -> None:
    gateway, log = logged
    callbacks = TenantCallbacks(gateway.database, Keyring(gateway.settings.require_secret_keys()))
    async with running_upstream(created(), answer(500, "no")) as upstream, Sender(Allowed.parse("127.0.0.0/8")) as sender:
        tenant = await gateway.add_tenant(upstream.url)
        secrets = [await callbacks.renew_secret(tenant.id)]
        record = (await tenant.create(status_callback=f"{upstream.url}/kate.private")).json()
        await call_back(gateway, tenant, record["id"], progress(tenant, record, "completed", 3, To="sip:kate.private@x.org"))
        deliverer = Deliverer(gateway.database, callbacks, sender, Metrics())
        for form in ("twilio", "json"):
            await callbacks.configure(tenant.id, form=form)
            async with gateway.database.begin() as session:
                await session.execute(text("UPDATE delivery SET next_attempt_at = now()"))
            assert await deliverer.step()
            await deliverer.drain()
            secrets.append(await callbacks.renew_secret(tenant.id))
        told = (await tenant.http.get(f"/v1/calls/{record['id']}/deliveries")).text
    assert '"attempts":2' in told
    assert log.getvalue().count("delivery_failed") == 2
    stored = await _every_cell(database_url)
    for secret in secrets:
        for shape in (secret, secret.removeprefix("whsec_"), secret.encode().hex()):
            assert shape not in log.getvalue() + stored + told
    assert "kate.private" not in log.getvalue()


async def test_personal_data_is_not_logged(logged: tuple[Gateway, io.StringIO]) -> None:
    gateway, log = logged
    async with running_upstream(created(), reset) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await tenant.create(to="+14155550123", **{"from": "+14155550123"})
        await tenant.create(to="sip:kate.private@example.com")
        await tenant.http.get("/v1/calls", params={"to": "+14155550123"})
    assert '"route": "/v1/calls"' in log.getvalue()
    for personal in PERSONAL:
        assert personal not in log.getvalue()
