"""Adds and lists Twilio accounts and their credentials over the admin API."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from app.tenants.administration_accounts import MAX_ACCOUNTS_PER_TENANT, MAX_ACTIVE_CREDENTIALS_PER_ACCOUNT
from app.tenants.errors import InvalidValue
from tests.admin.conftest import Admin, admin_of, faults_of, slug_of
from tests.support.gateway import BASIC_CALL, Gateway
from tests.support.upstream import created, running_upstream

SID, KEY_SID = "AC" + "b1" * 16, "SK" + "c2" * 16
TOKEN = {"account_sid": SID, "auth_token": "planted-token"}
KEY = {"key_sid": KEY_SID, "secret": "planted-secret"}


@pytest.fixture
async def tenant_id(gateway: Gateway) -> str:
    return (await gateway.add_tenant(with_account=False)).id


async def test_an_account_is_added_with_a_credential_and_used(gateway: Gateway, operator: Admin) -> None:
    tenant = await gateway.add_tenant(with_account=False)
    path = f"/tenants/{tenant.id}/accounts"
    async with running_upstream(created(), created()) as upstream:
        added = await operator.post(path, TOKEN | {"base_url": upstream.url})
        assert added.status_code == 201
        record = added.json()
        (credential,) = record["credentials"]
        assert (record["account_sid"], record["base_url"]) == (SID, upstream.url)
        assert (credential["kind"], credential["key_sid"], credential["rejected_at"]) == ("auth_token", None, None)
        second = await operator.post(f"{path}/{SID}/credentials", KEY)
        assert (second.status_code, second.json()["kind"], second.json()["key_sid"]) == (201, "api_key", KEY_SID)
        assert (await operator.get(path)).json() == {
            "accounts": [record | {"credentials": [credential, second.json()]}],
            "next_cursor": None,
        }
        gateway.invalidate_cache()
        assert (await tenant.http.post("/v1/calls", json=BASIC_CALL)).status_code == 201
        assert upstream.posts[-1].credentials == (SID, "planted-token")
        assert (await operator.delete(f"{path}/{SID}/credentials/{credential['id']}")).status_code == 204
        assert (await operator.delete(f"{path}/{SID}/credentials/{credential['id']}")).status_code == 204
        gateway.invalidate_cache()
        assert (await tenant.http.post("/v1/calls", json=BASIC_CALL)).status_code == 201
        assert upstream.posts[-1].credentials == (KEY_SID, "planted-secret")
    assert (await operator.get(path)).json()["accounts"][0]["credentials"] == [second.json()]
    events = (await operator.get(f"/audit-events?tenant={tenant.id}&action=credential.revoke")).json()["audit_events"]
    assert [event["subject"] for event in events] == [credential["id"]]


async def test_the_same_account_again_changes_nothing_and_another_conflicts(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/accounts"
    first = await operator.post(path, TOKEN | {"base_url": "https://api.dublin.ie1.twilio.com"})
    again = [await operator.post(path, body) for body in (TOKEN, TOKEN | {"base_url": "https://api.dublin.ie1.twilio.com/"})]
    assert [answer.status_code for answer in again] == [200, 200]
    assert all(answer.json() == first.json() and answer.headers["Idempotent-Replayed"] == "true" for answer in again)
    for other in (
        TOKEN | {"auth_token": "another"},
        {"account_sid": SID} | KEY,
        TOKEN | {"base_url": "https://api.twilio.com"},
    ):
        refused = await operator.post(path, other)
        assert slug_of(refused) == (409, "already-exists")
        assert "planted" not in refused.text
    await operator.delete(f"{path}/{SID}/credentials/{first.json()['credentials'][0]['id']}")
    assert slug_of(await operator.post(path, TOKEN)) == (409, "already-exists"), "a revoked credential is not revived"


async def test_the_same_credential_again_is_the_same_until_it_is_revoked(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/accounts"
    await operator.post(path, TOKEN)
    credentials = f"{path}/{SID}/credentials"
    first, again = await operator.post(credentials, KEY), await operator.post(credentials, KEY)
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    other_secret = await operator.post(credentials, KEY | {"secret": "another"})
    assert other_secret.status_code == 201
    await operator.delete(f"{credentials}/{first.json()['id']}")
    after = await operator.post(credentials, KEY)
    assert after.status_code == 201
    assert len({answer.json()["id"] for answer in (first, other_secret, after)}) == 3


async def test_of_racing_creations_one_creates(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/accounts"
    accounts = await asyncio.gather(*(operator.post(path, TOKEN) for _ in range(4)))
    assert sorted(answer.status_code for answer in accounts) == [200, 200, 200, 201]
    credentials = await asyncio.gather(*(operator.post(f"{path}/{SID}/credentials", KEY) for _ in range(4)))
    assert sorted(answer.status_code for answer in credentials) == [200, 200, 200, 201]
    (account,) = (await operator.get(path)).json()["accounts"]
    assert [credential["kind"] for credential in account["credentials"]] == ["auth_token", "api_key"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"account_sid": SID}, ("/", "credential_form")),
        (TOKEN | KEY, ("/", "credential_form")),
        ({"account_sid": SID, "key_sid": KEY_SID}, ("/", "credential_form")),
        ({"account_sid": SID, "secret": "planted"}, ("/", "credential_form")),
        ({"account_sid": SID, "auth_token": ""}, ("/auth_token", "invalid_secret")),
        ({"account_sid": SID, "auth_token": "planted\n"}, ("/auth_token", "invalid_secret")),
        ({"account_sid": SID, "auth_token": "planted" * 40}, ("/auth_token", "invalid_secret")),
        ({"account_sid": SID, "auth_token": "planted\ud800"}, ("/auth_token", "invalid_secret")),
        ({"account_sid": SID, "auth_token": None}, ("/auth_token", "string_type")),
        ({"account_sid": SID, "auth_token": ["planted"]}, ("/auth_token", "string_type")),
        ({"account_sid": SID, "token": "planted"}, ("/token", "unknown_member")),
        ({"auth_token": "planted"}, ("/account_sid", "missing")),
        (TOKEN | {"account_sid": "AC1"}, ("/account_sid", "string_pattern_mismatch")),
        ({"account_sid": SID} | KEY | {"key_sid": SID}, ("/key_sid", "string_pattern_mismatch")),
        (TOKEN | {"base_url": "api.dublin.ie1.twilio.com"}, ("/base_url", "invalid_url")),
        (TOKEN | {"base_url": "https://api.twilio.com/2010-04-01/Accounts"}, ("/base_url", "invalid_url")),
        (TOKEN | {"base_url": "https://api.tw\N{LATIN SMALL LETTER DOTLESS I}lio.com"}, ("/base_url", "invalid_url")),
        (TOKEN | {"base_url": "https://\N{KELVIN SIGN}elvin.example"}, ("/base_url", "invalid_url")),
    ],
)
async def test_an_invalid_account_is_refused_by_member(
    operator: Admin, tenant_id: str, body: dict[str, Any], fault: tuple[str, str]
) -> None:
    refused = await operator.post(f"/tenants/{tenant_id}/accounts", body)
    assert fault in faults_of(refused)
    assert "planted" not in refused.text
    assert (await operator.get(f"/tenants/{tenant_id}/accounts")).json()["accounts"] == []


async def test_the_21st_active_credential_of_an_account_is_refused(operator: Admin, tenant_id: str) -> None:
    accounts = f"/tenants/{tenant_id}/accounts"
    await operator.post(accounts, TOKEN)
    path = f"{accounts}/{SID}/credentials"
    keys = [{"key_sid": f"SK{number:032x}", "secret": "s"} for number in range(1, MAX_ACTIVE_CREDENTIALS_PER_ACCOUNT + 1)]
    added = [await operator.post(path, key) for key in keys]
    assert {answer.status_code for answer in added[:-1]} == {201}
    assert faults_of(added[-1]) == [("/secret", "too_many_credentials")]
    assert (await operator.post(path, keys[0])).status_code == 200
    assert (await operator.delete(f"{path}/{added[0].json()['id']}")).status_code == 204
    assert (await operator.post(path, keys[-1])).status_code == 201


async def test_the_101st_account_of_a_tenant_is_refused(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/accounts"
    async with gateway.database.transaction() as connection:
        statement = """INSERT INTO twilio_account (id, tenant_id, account_sid)
            SELECT gen_random_uuid(), $1, 'AC' || lpad(number::text, 32, '0') FROM generate_series(1, $2::int) AS number"""
        await connection.execute(statement, tenant_id, MAX_ACCOUNTS_PER_TENANT - 1)
    asked = [TOKEN | {"account_sid": f"AC{number:a>32}"} for number in (1, 2)]
    added = await asyncio.gather(*(operator.post(path, body) for body in asked))
    assert sorted(answer.status_code for answer in added) == [201, 422]
    refused = next(answer for answer in added if answer.status_code == 422)
    assert faults_of(refused) == [("/account_sid", "too_many_accounts")]
    with pytest.raises(InvalidValue, match="100 accounts"):
        await gateway.tenants.add_credential(tenant_id, account_sid="AC" + "b" * 32, secret="s", key_sid=None, base_url=None)


async def test_what_does_not_exist_is_named(gateway: Gateway, operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/accounts"
    for unknown in ("/tenants/missing/accounts",):
        assert slug_of(await operator.get(unknown)) == (404, "tenant-not-found")
        assert slug_of(await operator.post(unknown, TOKEN)) == (404, "tenant-not-found")
        assert slug_of(await operator.post(f"{unknown}/{SID}/credentials", KEY)) == (404, "tenant-not-found")
    refused = await operator.post(f"{path}/{SID}/credentials", KEY)
    assert (slug_of(refused), refused.json()["detail"]) == (
        (404, "resource-not-found"),
        "This tenant has no account with this SID.",
    )
    credential = (await operator.post(path, TOKEN)).json()["credentials"][0]["id"]
    assert slug_of(await operator.delete(f"{path}/{SID}/credentials/{uuid4()}")) == (404, "resource-not-found")
    assert faults_of(await operator.delete(f"{path}/{SID}/credentials/x")) == [("path/credential_id", "uuid_parsing")]
    # The credential of another account, and of another tenant.
    assert slug_of(await operator.delete(f"{path}/AC{'0' * 32}/credentials/{credential}")) == (404, "resource-not-found")
    other = (await gateway.add_tenant()).id
    assert slug_of(await operator.delete(f"/tenants/{other}/accounts/{SID}/credentials/{credential}"))[0] == 404
    own = await admin_of(gateway, other)
    for answer in (
        await own.get(path),
        await own.post(path, TOKEN),
        await own.post(f"{path}/{SID}/credentials", KEY),
        await own.delete(f"{path}/{SID}/credentials/{credential}"),
    ):
        assert slug_of(answer) == (404, "tenant-not-found")
    assert (await operator.get(path)).json()["accounts"][0]["credentials"][0]["id"] == credential


async def test_only_an_operator_sends_secrets_elsewhere_than_to_twilio(gateway: Gateway, tenant_id: str) -> None:
    own, path = await admin_of(gateway, tenant_id), f"/tenants/{tenant_id}/accounts"
    for host in (
        "http://10.0.0.1",
        "https://www.twilio.com",
        "https://twilio.com",
        "https://api.console.twilio.com.example.com",
        "https://api-x.twilio.com",
        "https://api.a.b.c.twilio.com",
        "https://twilio.com.example.com",
        "https://eviltwilio.com",
        "https://api.twilio.com@example.com",
        "http://api.twilio.com",
        "https://api.twilio.com:8443",
        "https://api.tw\N{LATIN SMALL LETTER DOTLESS I}lio.com",
        "https://api.tw\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}lio.com",
    ):
        refused = await own.post(path, TOKEN | {"base_url": host})
        assert slug_of(refused) == (403, "operator-key-required"), host
    for number, host in enumerate(("api", "api.ie1", "API.Dublin.ie1")):
        account = TOKEN | {"account_sid": f"AC{number:032x}", "base_url": f"https://{host}.twilio.com"}
        assert (await own.post(path, account)).status_code == 201


async def test_lists_are_pages_by_key(operator: Admin, tenant_id: str) -> None:
    path = f"/tenants/{tenant_id}/accounts"
    sids = [f"AC{number:032x}" for number in range(5)]
    for sid in sids:
        await operator.post(path, TOKEN | {"account_sid": sid})
    first = (await operator.get(f"{path}?limit=3")).json()
    rest = (await operator.get(f"{path}?limit=3&cursor={first['next_cursor']}")).json()
    assert [account["account_sid"] for account in first["accounts"] + rest["accounts"]] == sids
    assert rest["next_cursor"] is None
    assert faults_of(await operator.get(f"{path}?cursor=eA")) == [("?cursor", "cursor_unknown")]
