"""A request to create a call names a stored SIP credential. Twilio gets the user name and password of the credential."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.key_rotation import KeyRotation
from app.security.keyring import Keyring
from app.tenants.directory import TenantDirectory
from app.tenants.errors import AdministrationError, ResourceExists
from tests.support.gateway import BASIC_CALL, Gateway, Tenant, running_gateway, settings_for
from tests.support.upstream import Upstream, created, error, running_upstream


async def store(gateway: Gateway, tenant: Tenant, name: str = "pbx-berlin") -> None:
    await gateway.tenants.create_sip_credential(tenant.id, name, username="berlin-user", password="first")


def sip_auth_of(upstream: Upstream) -> tuple[str | None, str | None]:
    """Returns the SIP user name and password in the last creation that Twilio received."""
    form = dict(upstream.posts[-1].form)
    return form.get("SipAuthUsername"), form.get("SipAuthPassword")


async def test_a_creation_sends_what_is_stored_and_its_record_shows_the_name_only(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        response = await tenant.create(sip_credential="pbx-berlin")
        assert response.status_code == 201
        assert sip_auth_of(upstream) == ("berlin-user", "first")
        assert "SipCredential" not in dict(upstream.posts[-1].form)
        record = (await tenant.http.get(response.headers["Location"])).json()
        assert record["parameters"] == BASIC_CALL | {"sip_credential": "pbx-berlin"}
        assert record["warnings"] == []
        assert "berlin-user" not in response.text
        await tenant.create()
        assert sip_auth_of(upstream) == (None, None)


@pytest.mark.parametrize("given", [{"sip_auth_username": "u", "sip_auth_password": "p"}, {"sip_auth_password": "p"}])
async def test_a_name_together_with_a_user_name_or_password_is_refused(gateway: Gateway, given: dict[str, str]) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        response = await tenant.create(sip_credential="pbx-berlin", **given)
        assert response.status_code == 422
        (fault,) = response.json()["errors"]
        assert (fault["pointer"], fault["code"]) == ("/sip_credential", "sip_credential_and_sip_auth")
        assert all(name in fault["detail"] for name in given)
        assert upstream.posts == []


async def test_an_unknown_name_is_refused_and_named(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant, other = [await gateway.add_tenant(upstream.url) for _ in range(2)]
        await store(gateway, other, "pbx-paris")
        response = await tenant.create(sip_credential="pbx-paris")
        assert response.status_code == 422
        (fault,) = response.json()["errors"]
        assert (fault["pointer"], fault["code"]) == ("/sip_credential", "unknown_sip_credential")
        assert "pbx-paris" in fault["detail"]
        assert upstream.posts == []


@pytest.mark.parametrize("name", ["", "pbx berlin", "-pbx", "p" * 64, "pbx/berlin", "pbx\n", 7])
async def test_what_cannot_be_a_name_is_refused(gateway: Gateway, name: Any) -> None:
    tenant = await gateway.add_tenant()
    response = await tenant.create(sip_credential=name)
    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.json()["errors"]] == ["/sip_credential"]
    with pytest.raises(AdministrationError, match="not a name"):
        await store(gateway, tenant, str(name).replace("7", ""))


async def test_twilios_own_paths_refuse_the_name(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        form = {"To": BASIC_CALL["to"], "From": "Jack", "Url": BASIC_CALL["url"], "SipCredential": "pbx-berlin"}
        url = f"/2010-04-01/Accounts/{tenant.account_sid}/Calls.json"
        response = await tenant.http.post(url, data=form, auth=(tenant.account_sid, tenant.key))
        assert response.status_code == 400
        assert "SipCredential" in response.json()["message"]
        assert upstream.posts == []


async def test_the_name_is_ignored_with_a_warning_unless_a_sip_address_is_called(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        number = {"to": "+14155550100", "from": "+14155550101"}
        record = (await tenant.create(sip_credential="pbx-berlin", **number)).json()
        assert [(warning["pointer"], warning["code"]) for warning in record["warnings"]] == [("/sip_credential", "ignored")]


async def test_the_name_is_part_of_the_request_and_its_value_is_not(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        await store(gateway, tenant, "pbx-paris")
        first = await tenant.create("order-1", sip_credential="pbx-berlin")
        other = await tenant.create("order-1", sip_credential="pbx-paris")
        assert other.json()["type"] == "urn:callgate:problem:idempotency-key-reused"
        await gateway.tenants.replace_sip_credential(tenant.id, "pbx-berlin", username="u", password="second")
        await gateway.tenants.delete_sip_credential(tenant.id, "pbx-berlin")
        gateway.invalidate_cache()
        again = await tenant.create("order-1", sip_credential="pbx-berlin")
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
        assert len(upstream.posts) == 1


async def test_a_call_that_is_dialled_again_uses_what_is_stored_then(gateway: Gateway) -> None:
    async with running_upstream(error(401, 20003), created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        refused = await tenant.create("order-1", sip_credential="pbx-berlin")
        assert refused.status_code == 502
        await gateway.tenants.replace_sip_credential(tenant.id, "pbx-berlin", username="berlin-user", password="second")
        gateway.invalidate_cache()
        again = await tenant.create("order-1", sip_credential="pbx-berlin")
        assert again.status_code == 201
        assert again.json()["id"] == refused.json()["call_id"]
        assert [dict(post.form)["SipAuthPassword"] for post in upstream.posts] == ["first", "second"]


async def test_a_replaced_or_deleted_credential_takes_effect_in_every_replica(gateway: Gateway, database_url: str) -> None:
    async with running_upstream(created()) as upstream, running_gateway(settings_for(database_url)) as replica:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)

        async def until(url: str, status: int, password: str | None) -> None:
            async with asyncio.timeout(60):
                while True:
                    response = await tenant.http.post(f"{url}/v1/calls", json=BASIC_CALL | {"sip_credential": "pbx-berlin"})
                    if response.status_code == status and (password is None or sip_auth_of(upstream)[1] == password):
                        return

        for url in (gateway.url, replica.url):
            await until(url, 201, "first")
        await gateway.tenants.replace_sip_credential(tenant.id, "pbx-berlin", username="berlin-user", password="second")
        for url in (gateway.url, replica.url):
            await until(url, 201, "second")
        await gateway.tenants.delete_sip_credential(tenant.id, "pbx-berlin")
        for url in (gateway.url, replica.url):
            await until(url, 422, None)


async def test_creations_without_a_name_or_with_a_cached_one_do_not_read_the_table(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)

        async def places_while_the_table_is_locked(**members: Any) -> bool:
            async with gateway.database.begin() as session:
                await session.execute(text("LOCK TABLE sip_credential IN ACCESS EXCLUSIVE MODE"))
                placing = asyncio.create_task(tenant.create(**members))
                done, _ = await asyncio.wait([placing], timeout=1)
            return (await placing).status_code == 201 and bool(done)

        assert await places_while_the_table_is_locked()
        async with asyncio.timeout(60):
            # A notification of an earlier change may empty the cache once more.
            while not await places_while_the_table_is_locked(sip_credential="pbx-berlin"):
                assert sip_auth_of(upstream) == ("berlin-user", "first")


async def test_a_credential_that_cannot_be_opened_refuses_only_the_calls_that_name_it(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        lost = replace(gateway.tenants, keyring=Keyring([b"another key of thirty-two bytes."]))
        await lost.create_sip_credential(tenant.id, "pbx-berlin", username="u", password="p")
        response = await tenant.create(sip_credential="pbx-berlin")
        assert response.status_code == 409
        problem = response.json()
        assert problem["type"] == "urn:callgate:problem:no-usable-credentials"
        assert "pbx-berlin" in problem["detail"]
        assert (await tenant.create()).status_code == 201
        whose = f"of SIP credential pbx-berlin of tenant {tenant.id}"
        unreadable = await KeyRotation(gateway.database, gateway.tenants.keyring).find_unreadable_secrets()
        assert {name.split(":")[0] for name in unreadable} == {f"user name {whose}", f"password {whose}"}
        await gateway.tenants.replace_sip_credential(tenant.id, "pbx-berlin", username="u", password="p")
        gateway.invalidate_cache()
        assert (await tenant.create(sip_credential="pbx-berlin")).status_code == 201


async def test_secrets_of_sip_credentials_are_sealed_anew_with_a_new_key(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await store(gateway, tenant)
        new = b"a newer key of thirty-two bytes."
        rotation = KeyRotation(gateway.database, Keyring([new, *gateway.settings.require_secret_keys()]))
        assert (await rotation.reencrypt_secrets(gateway.tenants.actor)).reencrypted_count >= 3
        assert await KeyRotation(gateway.database, Keyring([new])).find_unreadable_secrets() == []
        assert (await rotation.reencrypt_secrets(gateway.tenants.actor)).reencrypted_count == 0
        auth = await TenantDirectory(gateway.database, Keyring([new])).sip_auth(tenant.id, "pbx-berlin")
        assert auth is not None
        assert (auth.username.get_secret_value(), auth.password.get_secret_value()) == ("berlin-user", "first")


@pytest.mark.parametrize(
    ("username", "password", "code"),
    [
        ("", "p", "SIP_AUTH_USERNAME_EMPTY"),
        ("u", "", "SIP_AUTH_PASSWORD_MISSING"),
        ("u" * 256, "p", "SIP_AUTH_USERNAME_TOO_LONG"),
        ("u", "pl4nted\n", "SIP_AUTH_PASSWORD_CHARACTER"),
    ],
)
async def test_what_twilio_would_refuse_is_not_stored(gateway: Gateway, username: str, password: str, code: str) -> None:
    tenant = await gateway.add_tenant()
    with pytest.raises(AdministrationError, match=code) as refused:
        await gateway.tenants.create_sip_credential(tenant.id, "pbx", username=username, password=password)
    assert "pl4nted" not in str(refused.value)
    assert await gateway.tenants.list_sip_credentials(tenant.id) == []


async def test_a_tenant_has_a_name_once_and_only_its_own_are_listed_and_deleted(gateway: Gateway) -> None:
    tenant, other = [await gateway.add_tenant() for _ in range(2)]
    for each in (tenant, other):
        await store(gateway, each)
    credentials = gateway.tenants
    _, created_now = await credentials.create_sip_credential(tenant.id, "pbx-berlin", username="berlin-user", password="first")
    assert not created_now
    for username, password in (("berlin-user", "second"), ("paris-user", "first")):
        with pytest.raises(ResourceExists):
            await credentials.create_sip_credential(tenant.id, "pbx-berlin", username=username, password=password)
    await credentials.delete_sip_credential(tenant.id, "pbx-berlin")
    assert await credentials.list_sip_credentials(tenant.id) == []
    assert [row.name for row in await credentials.list_sip_credentials(other.id)] == ["pbx-berlin"]
    for use_case in (credentials.delete_sip_credential(tenant.id, "pbx-berlin"), credentials.list_sip_credentials("nobody")):
        with pytest.raises(AdministrationError, match="no"):
            await use_case
    with pytest.raises(AdministrationError, match="has no SIP credential"):
        await credentials.replace_sip_credential(tenant.id, "pbx-berlin", username="u", password="p")
    with pytest.raises(AdministrationError, match="no tenant"):
        await credentials.create_sip_credential("nobody", "pbx", username="u", password="p")


async def test_changes_are_in_the_audit_log_without_values(gateway: Gateway) -> None:
    tenant = await gateway.add_tenant()
    await store(gateway, tenant)
    await gateway.tenants.replace_sip_credential(tenant.id, "pbx-berlin", username="u", password="second")
    await gateway.tenants.delete_sip_credential(tenant.id, "pbx-berlin")
    for refused in (("pbx-berlin", "u"), ("", "u"), ("pbx", "")):
        with pytest.raises(AdministrationError):
            await gateway.tenants.replace_sip_credential(tenant.id, refused[0], username=refused[1], password="third")
    events, _ = await AuditLog(gateway.database).list(AuditFilter(tenant_id=tenant.id), limit=3)
    assert [(event.action, event.subject, event.changed) for event in events] == [
        ("sip_credential.delete", "pbx-berlin", []),
        ("sip_credential.update", "pbx-berlin", ["username", "password"]),
        ("sip_credential.create", "pbx-berlin", []),
    ]
