"""Encryption keys can be rotated without losing secrets. `callgate secrets status` shows when the old key can be removed."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.audit.events import command_actor
from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.calls.statistics import count_fingerprints_by_key_id
from app.key_rotation import KeyRotation, ReencryptionResult
from app.security.keyring import Keyring
from app.tenants.repository import ENCRYPTED_COLUMNS, lock_rows_to_reencrypt
from tests.cli.running import environment, run
from tests.support.clients import http_client
from tests.support.gateway import SECRET_KEY, Gateway, running_gateway, settings_for
from tests.support.upstream import created, running_upstream

OLD = SECRET_KEY
NEW = base64.b64encode(bytes(range(32))).decode()
UNKNOWN = base64.b64encode(bytes(range(1, 33))).decode()


def keyring(*keys: str) -> Keyring:
    return Keyring([base64.b64decode(key) for key in keys])


async def run_secrets(command: str, database_url: str, tmp_path: Path, *keys: str) -> tuple[int, Any]:
    """Runs `callgate secrets` with this command and these encryption keys. Returns its exit code and its JSON output."""
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=",".join(keys))
    ended = await asyncio.to_thread(run, "secrets", command, "--json", environment=configured)
    assert ended.stderr == ""
    return ended.returncode, json.loads(ended.stdout)


async def credential(gateway: Gateway) -> str:
    async with gateway.database.begin() as session:
        return str(await session.scalar(text("SELECT id FROM twilio_credential")))


async def test_a_key_is_replaced_without_a_failed_call(gateway: Gateway, database_url: str, tmp_path: Path) -> None:
    old, new = keyring(OLD).newest_key_id.hex(), keyring(NEW).newest_key_id.hex()
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        with_key = (await tenant.create("k")).json()["id"]
        for number in range(4):
            secret = f"token-of-{number}"
            await gateway.tenants.add_credential(
                tenant.id, account_sid=f"AC{number:032d}", secret=secret, key_sid=None, base_url=None
            )

        assert await run_secrets("rotate", database_url, tmp_path, NEW, OLD) == (0, {"sealed_anew": 5, "unreadable": []})
        rotation = KeyRotation(gateway.database, keyring(NEW, OLD))
        assert await rotation.reencrypt_secrets(command_actor()) == ReencryptionResult(0, [])
        events, _ = await AuditLog(gateway.database).list(AuditFilter(action="secrets.rotate"), limit=10)
        assert [(event.subject, event.changed, event.tenant_id) for event in events] == [
            (new, ["twilio_credential.sealed_secret"], None)
        ]
        _, status = await run_secrets("status", database_url, tmp_path, NEW, OLD)
        assert status == [
            {"key": new, "state": "newest", "secrets": 5, "api_keys": 0, "calls": 0, "may_go": "no"},
            {"key": old, "state": "configured", "secrets": 0, "api_keys": 1, "calls": 1, "may_go": "no"},
        ]

        settings = settings_for(database_url, secret_keys=f"{NEW},{OLD}")
        async with (
            running_gateway(settings) as rotated,
            http_client(base_url=rotated.url, headers=tenant.http.headers) as http,
        ):
            body = {"to": "sip:kate@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}
            again = await http.post("/v1/calls", json=body, headers={"Idempotency-Key": "k"})
            assert (again.status_code, again.json()["id"]) == (200, with_key)
            assert (await http.post("/v1/calls", json=body)).status_code == 201
        assert upstream.posts[-1].credentials[1] == tenant.auth_token
        assert len(upstream.posts) == 2
    key_uses = await rotation.count_key_uses()
    assert [(use.api_keys, use.calls) for use in key_uses] == [(1, 0), (0, 1)], "the API key was hashed anew"
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM call"))  # as retention does later
    assert [(use.key_id, use.is_needed) for use in await rotation.count_key_uses()] == [(new, True), (old, False)]


async def test_secrets_that_no_key_decrypts_are_listed_and_left_unchanged(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM twilio_credential"))
    tenant = await gateway.add_tenant()
    code, output = await run_secrets("rotate", database_url, tmp_path, UNKNOWN)
    assert code == 1
    whose = f"of account {tenant.account_sid} of tenant {tenant.id}"
    reason = "encrypted with a key that is not among CALLGATE_SECRET_KEYS"
    assert output == {"sealed_anew": 0, "unreadable": [f"Twilio credential {await credential(gateway)} {whose}: {reason}"]}
    ((account, _),) = await gateway.tenants.list_accounts(tenant.id)
    (access,) = await gateway.directory.active_credentials(account.id)
    assert access.password.get_secret_value() == tenant.auth_token


DAMAGED_SECRETS = {
    "empty": b"",
    "one byte": b"\x01",
    "cut off in the key's id": b"\x01\x02\x03",
    "cut off in the nonce": None,
    "cut off in the tag": None,
    "never encrypted": b"planted-in-clear-planted-in-clear-planted",
    "in base64": base64.b64encode(bytes(60)),
    "of another row": None,
    "of an unknown key": keyring(UNKNOWN).encrypt("planted", associated_data="nobody's"),
}


async def test_damaged_secrets_are_listed_and_do_not_stop_the_rotation(
    gateway: Gateway, database_url: str, tmp_path: Path
) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM twilio_credential"))
    tenants = {name: await gateway.add_tenant() for name in DAMAGED_SECRETS}
    async with running_upstream(created()) as upstream:
        whole = [await gateway.add_tenant(upstream.url) for _ in range(2)]
        async with gateway.database.begin() as session:
            first = (await session.scalars(text("SELECT sealed_secret FROM twilio_credential ORDER BY id DESC"))).first() or b""
            parts = {"cut off in the nonce": first[:10], "cut off in the tag": first[:20], "of another row": first}
            for name, tenant in tenants.items():
                await session.execute(
                    text(
                        "UPDATE twilio_credential SET sealed_secret = :sealed FROM twilio_account account "
                        "WHERE account.id = account_id AND account.account_sid = :account"
                    ),
                    {"sealed": parts.get(name, DAMAGED_SECRETS[name]), "account": tenant.account_sid},
                )
        gateway.invalidate_cache()
        for tenant in tenants.values():
            refused = await tenant.create()
            assert (refused.status_code, refused.json()["type"]) == (409, "urn:callgate:problem:no-usable-credentials")
            assert refused.json()["execution"] == "not_started"
            assert tenant.account_sid in refused.json()["detail"]
            assert "cannot be opened" in refused.json()["detail"]
        assert (await whole[0].create()).status_code == 201
        assert len(upstream.posts) == 1
    configured = environment(tmp_path, CALLGATE_DATABASE_URL=database_url, CALLGATE_SECRET_KEYS=f"{NEW},{OLD}")
    for command in ("rotate", "status"):
        ended = await asyncio.to_thread(run, "secrets", command, "--json", environment=configured)
        assert ended.returncode == 1
        output = json.loads(ended.stdout)
        named = "\n".join(output["unreadable"]) if command == "rotate" else ended.stderr
        for tenant in tenants.values():
            assert f"of account {tenant.account_sid} of tenant {tenant.id}: " in named
        for tenant in whole:
            assert tenant.account_sid not in named
        assert "planted" not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        if command == "rotate":
            assert output["sealed_anew"] == len(whole)


async def test_revoked_credentials_need_no_key(gateway: Gateway) -> None:
    """A damaged credential is replaced as docs/rotation.md says: it is added again, and the damaged one is revoked."""
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM twilio_credential"))
    tenant = await gateway.add_tenant()
    ((account, (damaged,)),) = await gateway.tenants.list_accounts(tenant.id)
    async with gateway.database.begin() as session:
        sealed = keyring(UNKNOWN).encrypt("planted", associated_data=f"twilio_credential:{damaged.id}")
        await session.execute(text("UPDATE twilio_credential SET sealed_secret = :sealed"), {"sealed": sealed})
    added, revoked = [
        await gateway.tenants.add_credential(
            tenant.id, account_sid=account.account_sid, secret=secret, key_sid=None, base_url=None
        )
        for secret in ("again", "revoked")
    ]
    rotation = KeyRotation(gateway.database, keyring(NEW, OLD))
    assert len(await rotation.find_unreadable_secrets()) == 1
    for credential_id in (damaged.id, revoked.id):
        await gateway.tenants.revoke_credential(tenant.id, credential_id)
    needed = {use.key_id: use.secrets for use in await rotation.count_key_uses(count_calls=False)}
    assert needed == {keyring(NEW).newest_key_id.hex(): 0, keyring(OLD).newest_key_id.hex(): 1}
    assert await rotation.reencrypt_secrets(command_actor()) == ReencryptionResult(2, [])
    async with gateway.database.begin() as session:
        rows = (await session.execute(text("SELECT id, sealed_secret FROM twilio_credential"))).all()
    opened = {row.id for row in rows if row.sealed_secret[1:5] == keyring(NEW).newest_key_id}
    assert opened == {added.id, revoked.id}, "callgate apply compares its secrets with those of revoked credentials"


async def test_concurrent_rotations_are_safe(gateway: Gateway) -> None:
    async with gateway.database.begin() as session:
        await session.execute(text("DELETE FROM twilio_credential"))
    tenants = [await gateway.add_tenant() for _ in range(8)]
    rotations = [
        KeyRotation(gateway.database, keyring(NEW, OLD), batch_size=3).reencrypt_secrets(command_actor()) for _ in range(3)
    ]
    results = await asyncio.gather(*rotations)
    assert sum(result.reencrypted_count for result in results) == len(tenants)
    assert not any(result.unreadable for result in results)


async def test_a_rotation_does_not_delay_the_creation_of_calls(gateway: Gateway) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        await gateway.tenants.renew_callback_secret(tenant.id)
        async with gateway.database.begin() as session:
            locked = [
                row
                for column in ENCRYPTED_COLUMNS
                for row in await lock_rows_to_reencrypt(
                    session, column, after=None, limit=50, key_id=keyring(NEW).newest_key_id
                )
            ]
            assert tenant.id in {row.id for row in locked}
            assert (await tenant.create()).status_code == 201


@pytest.mark.parametrize("page", [1, 3])
async def test_calls_are_counted_page_by_page(gateway: Gateway, page: int, database_url: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        for number in range(4):
            await tenant.create(f"{page}-{number}")
        await tenant.create()
    counted, last = 0, None
    while True:
        async with gateway.database.begin() as session:
            found, last = await count_fingerprints_by_key_id(session, after=last, limit=page)
        if last is None:
            break
        counted += sum(found.values())
    async with gateway.database.begin() as session:
        assert counted == await session.scalar(text("SELECT count(idempotency_key) FROM call")) > 0
