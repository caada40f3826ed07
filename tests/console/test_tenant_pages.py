"""Tests the pages of tenants: who sees and changes a tenant, how errors in forms are shown, and that a key is shown once."""

import re
from html import unescape
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.console.tenants.store import MAX_LISTED_RECORDS
from app.scheduling.administration import PaceAdministration
from app.tenants.administration_store import TenantSettings
from app.tenants.api_keys import api_key_public_part
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from app.workloads.service_accounts import ServiceAccount
from tests.console.conftest import LogIn, Person, follow, text_of
from tests.support.clients import http_client
from tests.support.gateway import BASIC_CALL, Gateway
from tests.support.upstream import Upstream

SID, SECRET = "AC" + "d" * 32, "pl4nted-t0ken"


async def deeds(gateway: Gateway, tenant_id: str, actor: str) -> list[str]:
    events, _ = await AuditLog(gateway.database).list(AuditFilter(tenant_id=tenant_id, actor_name=actor), limit=50)
    return [event.action for event in reversed(events) if not event.action.startswith("console.")]


def value_of(answer: httpx.Response, name: str) -> str:
    found = re.search(rf'name="{name}"[^>]* value="([^"]*)"', answer.text)
    assert found
    return unescape(found[1])


async def make_key(person: Person, tenant_id: str, **fields: Any) -> httpx.Response:
    once = value_of(await person.get(f"/tenants/{tenant_id}"), "once")
    return await person.http.post(f"/console/tenants/{tenant_id}/keys", data={"once": once, "format": "callgate"} | fields)


async def test_a_tenant_with_account_and_key_is_made_and_places_a_call(
    gateway: Gateway, upstream: Upstream, log_in: LogIn
) -> None:
    person, tenant_id = await log_in(), f"new-{uuid4()}"
    made = await person.post("/tenants", id=tenant_id, name="New team")
    assert (made.status_code, made.headers["Location"]) == (303, f"/console/tenants/{tenant_id}")
    assert "This tenant cannot place calls yet" in text_of(await person.get(f"/tenants/{tenant_id}"))
    account = {"account_sid": SID, "auth_token": SECRET, "base_url": upstream.url}
    assert (await person.post(f"/tenants/{tenant_id}/accounts", **account)).status_code == 303
    answer = await make_key(person, tenant_id, name="dialler", scopes=["call", "read"])
    key = re.search(r">(cgk_[^<]+)</code>", answer.text)
    assert key
    async with http_client(base_url=gateway.url, headers={"Authorization": f"Bearer {key[1]}"}) as http:
        assert (await http.post("/v1/calls", json=BASIC_CALL)).status_code == 201
    page = await person.get(f"/tenants/{tenant_id}")
    assert SID in page.text
    assert "dialler" in page.text
    assert key[1] not in page.text
    assert SECRET not in page.text
    assert await deeds(gateway, tenant_id, person.key_id) == ["tenant.create", "account.create", "credential.add", "key.create"]


async def test_a_key_is_shown_once_and_its_form_makes_one_key(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    fields = {"once": str(uuid4()), "name": "dialler", "scopes": ["call"], "format": "twilio"}
    first, again = [await person.http.post(f"/console/tenants/{tenant.id}/keys", data=fields) for _ in range(2)]
    assert first.headers["Cache-Control"] == "no-store"
    assert "Copy it now" in text_of(first)
    assert "cannot be shown again" in text_of(again)
    assert str(first.url) == str(again.url)
    keys = [row for row in await gateway.tenants.list_keys(tenant.id) if row.name == "dialler"]
    assert [row.scopes for row in keys] == [["call"]]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": "Not an id", "name": "The desk"}, "Use lower-case letters, digits and -"),
        ({"id": "desk"}, "Give a name of at most 200 characters."),
    ],
)
async def test_what_is_wrong_with_a_tenant_is_at_its_field(log_in: LogIn, fields: dict[str, str], text: str) -> None:
    answer = await (await log_in()).post("/tenants", **fields)
    assert answer.status_code == 422
    assert text in text_of(answer)
    assert value_of(answer, "id") == fields["id"]
    assert 'aria-invalid="true"' in answer.text
    assert '<details class="card" open>' in answer.text


async def test_a_tenant_that_exists_is_a_conflict(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    answer = await (await log_in()).post("/tenants", id=tenant.id, name="Another")
    assert answer.status_code == 409
    assert "The tenant exists with another name." in text_of(answer)


async def test_the_address_of_a_refused_form_leads_to_the_tenant(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    person, stranger = await log_in(tenant.id), await log_in((await gateway.add_tenant()).id)
    for form in ("accounts", "accounts/AC1/credentials", "keys"):
        path = f"/tenants/{tenant.id}/{form}"
        assert (await person.post(path)).status_code == 422
        assert tenant.id in text_of(await follow(person, await person.get(path)))
        assert (await stranger.get(path)).status_code == 404


async def test_a_refused_secret_is_not_shown_again(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    refused = await person.post(f"/tenants/{tenant.id}/accounts", account_sid="AC1", key_sid="SK1", secret=SECRET)
    assert refused.status_code == 422
    assert value_of(refused, "account_sid") == "AC1"
    assert SECRET not in refused.text
    of_account = f"/tenants/{tenant.id}/accounts/{tenant.account_sid}/credentials"
    both = await person.post(of_account, auth_token=SECRET, key_sid="SK" + "a" * 32)
    assert both.status_code == 422
    assert "Give either the auth token, or the SID and the secret of an API key." in text_of(both)
    assert SECRET not in both.text
    missing = await person.post(f"/tenants/{tenant.id}/accounts/{SID}/credentials", auth_token=SECRET)
    assert missing.status_code == 404


async def test_credentials_are_added_and_revoked(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    path, key_sid = f"/tenants/{tenant.id}", "SK" + "b" * 32
    added = await person.post(f"{path}/accounts/{tenant.account_sid}/credentials", key_sid=key_sid, secret=SECRET)
    assert added.status_code == 303
    ((_, credentials),) = await gateway.tenants.list_accounts(tenant.id)
    assert [credential.kind for credential in credentials] == ["auth_token", "api_key"]
    assert key_sid in (await person.get(path)).text
    assert (await person.post(f"{path}/credentials/{credentials[1].id}/revoke")).status_code == 303
    assert key_sid not in (await person.get(path)).text
    assert (await person.post(f"{path}/credentials/nothing/revoke")).status_code == 404
    assert (await person.post(f"{path}/credentials/{uuid4()}/revoke")).status_code == 404
    assert await deeds(gateway, tenant.id, person.key_id) == ["credential.add", "credential.revoke"]


async def test_a_key_is_revoked_and_refused(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    row, key = await gateway.tenants.create_key(tenant.id, name="old", creator=COMMAND_LINE_CALLER)
    assert (await person.post(f"/tenants/{tenant.id}/keys/{row.prefix}/revoke")).status_code == 303
    gateway.invalidate_cache()
    async with http_client(base_url=gateway.url, headers={"Authorization": f"Bearer {key}"}) as http:
        assert (await http.get("/v1/calls")).status_code == 401
    assert (await person.post(f"/tenants/{tenant.id}/keys/cgk_000000000000/revoke")).status_code == 404


async def test_the_newest_keys_are_listed_of_many(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    await gateway.tenants.create_key(tenant.id, name="oldest-key", creator=COMMAND_LINE_CALLER)
    await gateway.database.fetch(
        """INSERT INTO api_key (id, tenant_id, name, prefix, keyed_hash, revoked_at)
            SELECT gen_random_uuid(), $1, 'revoked-' || n, $1 || n, '', now() FROM generate_series(1, $2::int) AS n""",
        *(tenant.id, MAX_LISTED_RECORDS),
    )
    await gateway.tenants.create_key(tenant.id, name="newest-key", creator=COMMAND_LINE_CALLER)
    shown = text_of(await person.get(f"/tenants/{tenant.id}"))
    assert shown.index("newest-key") < shown.index("oldest-key") < shown.index("revoked-")
    assert f"at most {MAX_LISTED_RECORDS} of each kind" in shown


async def test_a_tenant_is_suspended_and_resumed(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    path = f"/tenants/{tenant.id}"
    assert "Its scheduled calls are not dialled until then, and expire" in text_of(await person.get(path))
    assert (await person.post(f"{path}/suspend")).status_code == 303
    assert "its creations are refused, its scheduled calls are not dialled" in text_of(await person.get(path))
    listed = await person.get("/tenants")
    assert "suspended" in text_of(listed)
    own = await log_in(tenant.id)
    assert (await own.http.post(f"/console{path}/keys", data={"once": str(uuid4()), "scopes": ["read"]})).status_code == 403
    assert (await person.post(f"{path}/resume")).status_code == 303
    assert (await gateway.tenants.get_tenant(tenant.id)).suspended_at is None
    assert await deeds(gateway, tenant.id, person.key_id) == ["tenant.suspend", "tenant.resume"]


async def test_a_tenants_session_reaches_its_own_tenant_only(gateway: Gateway, log_in: LogIn) -> None:
    own, other = await gateway.add_tenant(), await gateway.add_tenant()
    person = await log_in(own.id)
    assert (await person.get("/tenants")).headers["Location"] == f"/console/tenants/{own.id}"
    assert (await person.get(f"/tenants/{own.id}")).status_code == 200
    assert (await person.get(f"/tenants/{other.id}")).status_code == 404
    acts: dict[str, dict[str, Any]] = {
        "accounts": {"account_sid": SID, "auth_token": SECRET},
        f"accounts/{other.account_sid}/credentials": {"auth_token": SECRET},
        "keys": {"once": str(uuid4()), "scopes": ["read"]},
        "suspend": {},
    }
    for act, fields in acts.items():
        answer = await person.http.post(f"/console/tenants/{other.id}/{act}", data=fields)
        assert answer.status_code == (403 if act == "suspend" else 404)
    assert (await person.post("/tenants", id="x", name="x")).status_code == 403
    assert (await person.post(f"/tenants/{own.id}/suspend")).status_code == 403
    assert await deeds(gateway, other.id, person.key_id) == []


async def test_a_tenant_gives_no_scope_that_it_lacks_and_names_no_other_host(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    person = await log_in(tenant.id, Scope.READ, Scope.ADMIN)
    answer = await make_key(person, tenant.id, scopes=["call"])
    assert answer.status_code == 403
    assert "Only a key with the scope call can give it" in text_of(answer)
    elsewhere = {"account_sid": SID, "auth_token": SECRET, "base_url": "https://evil.example"}
    answer = await person.post(f"/tenants/{tenant.id}/accounts", **elsewhere)
    assert answer.status_code == 403
    assert "Only an operator's API key may use another base_url" in unescape(text_of(answer))
    assert await deeds(gateway, tenant.id, person.key_id) == []


async def test_who_may_only_read_is_offered_no_form(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    for person in (await log_in(tenant.id, Scope.READ), await log_in(None, Scope.READ)):
        answer = await person.get(f"/tenants/{tenant.id}")
        assert answer.text.count("<form") == 1  # the log-out
        assert (await person.post(f"/tenants/{tenant.id}/keys", once=str(uuid4()), scopes="read")).status_code == 403


async def test_the_page_shows_what_belongs_to_the_tenant(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    settings: TenantSettings = {
        "max_in_flight": 1200,
        "status_callback": "https://user:pl4nted@hooks.example.com/calls?token=pl4nted",
        "hours": {"time_zone": "Europe/Berlin", "days": ["mon", "tue", "wed"], "from": "09:00", "to": "18:00"},
    }
    await gateway.tenants.update_tenant(tenant.id, settings)
    await gateway.tenants.create_sip_credential(tenant.id, name="pbx", username="pl4nted", password="pl4nted")
    pace = PaceAdministration(gateway.database, gateway.tenants.keyring, gateway.tenants.actor)
    await pace.set_pace(tenant.id, account_sid=tenant.account_sid, change={"max_concurrent": 7})
    workload = ServiceAccount("https://cluster.example.com", "dialling", "dialler")
    await gateway.tenants.create_workload(tenant.id, workload, creator=COMMAND_LINE_CALLER)
    answer = await (await log_in(None, Scope.READ)).get(f"/tenants/{tenant.id}")
    shown = text_of(answer)
    for text in (
        "1,200",
        "https://hooks.example.com/calls?•••",
        "mon–wed 09:00–18:00, Europe/Berlin",
        "7 at the same time",
        "dialling/dialler",
        "pbx",
        tenant.account_sid,
        api_key_public_part(tenant.key),
    ):
        assert text in shown
    assert "pl4nted" not in answer.text
    assert tenant.key not in answer.text
    assert tenant.auth_token not in answer.text


async def test_tenants_come_in_pages(gateway: Gateway, log_in: LogIn) -> None:
    person = await log_in()
    for number in range(60):
        await gateway.tenants.create_tenant(f"many-{number:02}", name="Many")
    first = await person.get("/tenants")
    found = re.search(r'rel="next" href="/console([^"]+)"', first.text)
    assert found
    second = await person.get(unescape(found[1]))
    ids = [re.findall(r'<td class="nowrap"><a href="/console/tenants/([^"]+)"', answer.text) for answer in (first, second)]
    assert len(ids[0]) == 50
    assert ids[0] + ids[1] == sorted({*ids[0], *ids[1]})


async def test_a_forged_origin_changes_nothing(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    forged = {"Origin": "https://evil.example"}
    row, _ = await gateway.tenants.create_key(tenant.id, name="kept", creator=COMMAND_LINE_CALLER)
    for act in ("suspend", f"keys/{row.prefix}/revoke", "accounts", "keys"):
        answer = await person.http.post(f"/console/tenants/{tenant.id}/{act}", data={}, headers=forged)
        assert answer.status_code == 403
    assert await deeds(gateway, tenant.id, person.key_id) == []


async def test_a_key_without_read_is_shown_no_tenant_by_a_form_that_is_refused(gateway: Gateway, log_in: LogIn) -> None:
    tenant, other = await gateway.add_tenant(), await gateway.add_tenant()
    for person in (await log_in(tenant.id, Scope.ADMIN), await log_in(None, Scope.ADMIN)):
        for path in (f"/{tenant.id}/accounts", f"/{tenant.id}/keys", f"/{tenant.id}/accounts/{tenant.account_sid}/credentials"):
            answer = await person.post(f"/tenants{path}", name="x")
            assert (answer.status_code, tenant.account_sid in answer.text) == (403, False), path
        listed = await person.post("/tenants", id="not an id")
        assert (listed.status_code, other.id in listed.text) == (403, False)
