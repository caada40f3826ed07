"""A Twilio credential is replaced step by step, and the old one is not revoked while it is needed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.doctor.twilio_client import open_credential_checker
from app.security.keyring import Keyring
from app.tenants.administration_rotation import CredentialReplacement, CredentialRotation
from app.tenants.administration_store import CredentialRow
from app.tenants.errors import AdministrationError, NoSuchResource
from app.tenants.repository import mark_credentials_used, set_credential_rejection
from simulator.config import SimulatorConfig
from tests.simulator.running import serve
from tests.support.clients import http_client
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import refused_url

QUIET = timedelta(minutes=3)
KEY = "SK" + "1" * 32
OTHER_KEY = "SK" + "2" * 32


@dataclass
class Account:
    """A tenant's account at a simulator, and the rotation of its credentials."""

    gateway: Gateway
    tenant: Tenant
    simulator: httpx.AsyncClient
    rotation: CredentialRotation

    async def find(self, key_sid: str | None = None, old_id: UUID | None = None) -> CredentialReplacement | None:
        return await self.rotation.find_replacement(
            self.tenant.id, account_sid=self.tenant.account_sid, key_sid=key_sid, old_id=old_id
        )

    async def begin(self, secret: str, key_sid: str | None = None, old_id: UUID | None = None) -> CredentialReplacement | None:
        return await self.rotation.begin_replacement(
            self.tenant.id, account_sid=self.tenant.account_sid, key_sid=key_sid, secret=secret, old_id=old_id
        )

    async def begun(self, secret: str, key_sid: str | None = None, old_id: UUID | None = None) -> CredentialReplacement:
        replacement = await self.begin(secret, key_sid, old_id)
        assert replacement is not None
        assert await self.find(key_sid) == replacement
        return replacement

    async def add(self, secret: str, key_sid: str | None = None) -> CredentialRow:
        return await self.gateway.tenants.add_credential(
            self.tenant.id, account_sid=self.tenant.account_sid, secret=secret, key_sid=key_sid, base_url=None
        )

    async def active(self) -> list[UUID]:
        """Returns the ids of the active credentials, in the order in which Callgate tries them."""
        ((_, credentials),) = await self.gateway.tenants.list_accounts(self.tenant.id)
        return [credential.id for credential in credentials]

    async def at_twilio(self, *, primary: str | None, secondary: str | None = None, **keys: str) -> None:
        """Makes the simulator accept exactly these auth tokens, and these API keys by their sids."""
        accepted = {"auth_token": primary, "secondary_auth_token": secondary, "api_keys": keys}
        (await self.simulator.put(f"/accounts/{self.tenant.account_sid}", json=accepted)).raise_for_status()

    async def promote(self) -> None:
        (await self.simulator.post(f"/accounts/{self.tenant.account_sid}/promote")).raise_for_status()

    async def pass_time(self, minutes: int) -> None:
        """Moves all recorded times of the credentials `minutes` minutes into the past, as if this time had passed."""
        async with self.gateway.database.begin() as session:
            for statement in (
                "UPDATE twilio_credential SET rejected_at = rejected_at - make_interval(mins => :minutes), "
                "preferred_at = preferred_at - make_interval(mins => :minutes)",
                "UPDATE credential_use SET last_used_at = last_used_at - make_interval(mins => :minutes)",
            ):
                await session.execute(text(statement), {"minutes": minutes})

    async def use(self, credential: CredentialRow) -> None:
        async with self.gateway.database.begin() as session:
            await mark_credentials_used(session, [str(credential.id)])

    async def reject(self, credential: CredentialRow) -> None:
        """Marks the credential as after a creation that Twilio has refused because of it."""
        async with self.gateway.database.begin() as session:
            await set_credential_rejection(session, [credential.id], reason="credentials_rejected")

    async def advance(self, replacement: CredentialReplacement) -> str:
        return (await self.rotation.advance_replacement(replacement, min_unused_time=QUIET)).step


@asynccontextmanager
async def rotation_of(gateway: Gateway, url: str) -> AsyncIterator[CredentialRotation]:
    settings = gateway.settings.model_copy(update={"twilio_base_url": url, "twilio_read_timeout": 30.0})
    async with open_credential_checker(settings) as check:
        yield CredentialRotation(gateway.database, gateway.tenants.keyring, gateway.tenants.actor, check)


@pytest.fixture
async def account(gateway: Gateway) -> AsyncIterator[Account]:
    with serve(SimulatorConfig()) as url:
        async with (
            http_client(base_url=f"{url}/_simulator") as simulator,
            rotation_of(gateway, url) as rotation,
        ):
            account = Account(gateway, await gateway.add_tenant(url), simulator, rotation)
            await account.at_twilio(primary=account.tenant.auth_token, secondary="second")
            yield account


async def test_an_auth_token_is_revoked_after_its_promotion_and_a_quiet_time(account: Account) -> None:
    assert await account.find() is None
    replacement = await account.begun("second")
    old, new = replacement.old, replacement.new
    assert await account.active() == [new.id, old.id]

    await account.pass_time(60)
    assert await account.advance(replacement) == "promote"
    await account.promote()
    progress = await account.rotation.advance_replacement(replacement, min_unused_time=QUIET)
    assert progress.step == "wait"
    assert await account.advance(replacement) == "wait"

    await account.pass_time(2)
    await account.use(old)
    assert await account.advance(replacement) == "wait"
    await account.pass_time(2)
    assert await account.advance(replacement) == "wait", "the last use is two minutes ago"
    assert await account.active() == [new.id, old.id]
    await account.pass_time(1)
    assert await account.advance(replacement) == "done"
    assert await account.active() == [new.id]
    assert await account.find() is None
    assert await account.begin("second") is None, "run once more with the same token"
    events, _ = await AuditLog(account.gateway.database).list(AuditFilter(tenant_id=account.tenant.id), limit=3)
    assert [(event.action, event.subject, event.changed) for event in events] == [
        ("credential.revoke", str(old.id), []),
        ("credential.update", str(new.id), ["place"]),
        ("credential.add", str(new.id), []),
    ]


async def test_an_unused_token_is_kept_for_the_quiet_time_after_twilio_refuses_it(account: Account) -> None:
    replacement = await account.begun("second")
    await account.promote()
    await account.pass_time(60)
    assert await account.advance(replacement) == "wait", "a callback that the old token has signed may be under way"
    await account.pass_time(3)
    assert await account.advance(replacement) == "done"


async def test_calls_use_the_new_credential_as_soon_as_it_is_stored(account: Account) -> None:
    await account.at_twilio(primary=account.tenant.auth_token, secondary="second")
    replacement = await account.begun("second")
    account.gateway.invalidate_cache()
    response = await account.tenant.create()
    assert response.status_code == 201
    ((_, credentials),) = await account.gateway.tenants.list_accounts(account.tenant.id)
    events = await account.tenant.events(response.json()["id"])
    (started,) = [event for event in events if event["type"] == "call.started"]
    assert [attempt["credential"] for attempt in started["data"]["attempts"]] == [str(replacement.new.id)]
    assert [credential.id for credential in credentials] == [replacement.new.id, replacement.old.id]


async def test_a_credential_that_twilio_refuses_is_not_stored(account: Account) -> None:
    before = await account.active()
    with pytest.raises(AdministrationError, match="refuses the new credential: nothing was changed") as refused:
        await account.begin("planted-wrong")
    assert "planted" not in str(refused.value)
    assert await account.active() == before
    assert await account.find() is None


async def test_nothing_changes_while_twilio_cannot_be_asked(account: Account) -> None:
    replacement = await account.begun("second")
    await account.promote()
    await account.pass_time(60)
    async with rotation_of(account.gateway, refused_url()) as rotation:
        account_row = replace(replacement.account, base_url=None)
        with pytest.raises(AdministrationError, match="could not be asked"):
            await rotation.advance_replacement(replace(replacement, account=account_row), min_unused_time=QUIET)
    assert await account.active() == [replacement.new.id, replacement.old.id]


async def test_the_old_token_stays_if_twilio_refuses_the_new_one(account: Account) -> None:
    replacement = await account.begun("second")
    await account.at_twilio(primary="a third")
    await account.pass_time(60)
    with pytest.raises(AdministrationError, match="refuses the new credential"):
        await account.advance(replacement)
    assert await account.active() == [replacement.new.id, replacement.old.id]


async def test_a_token_that_was_added_before_takes_the_place(account: Account) -> None:
    first, second = (*(await account.active()), (await account.add("second")).id)
    assert await account.active() == [first, second]
    replacement = await account.begun("second")
    assert (replacement.old.id, replacement.new.id) == (first, second)
    assert await account.active() == [second, first]
    with pytest.raises(AdministrationError, match="say which credential"):
        await account.begin("a third")


async def test_a_replacement_that_another_operator_has_begun_is_continued(account: Account) -> None:
    """The other operator begins it after this one has looked for one, and before this one gives the same token."""
    assert await account.find() is None
    begun = await account.begun("second")
    assert await account.begin("second") == begun
    assert await account.active() == [begun.new.id, begun.old.id]


async def test_the_token_that_is_used_already_replaces_nothing(account: Account) -> None:
    assert await account.begin(account.tenant.auth_token) is None
    await account.add("second")
    with pytest.raises(AdministrationError, match="say which credential"):
        await account.begin(account.tenant.auth_token)


async def test_a_token_does_not_take_the_place_of_an_api_key(account: Account) -> None:
    (token,) = await account.active()
    key = await account.add("key-secret", KEY)
    third = await account.add("another", OTHER_KEY)
    await account.at_twilio(primary=account.tenant.auth_token, secondary="second", **{KEY: "key-secret"})
    replacement = await account.begun("second")
    assert replacement.old.id == token
    assert await account.active() == [replacement.new.id, token, key.id, third.id]


async def test_an_api_key_is_revoked_when_it_has_not_been_used_for_a_while(account: Account) -> None:
    old = await account.add("old-secret", KEY)
    await account.at_twilio(primary=account.tenant.auth_token, **{KEY: "old-secret", OTHER_KEY: "new-secret"})
    with pytest.raises(AdministrationError, match="refuses"):
        await account.begin("wrong", OTHER_KEY)
    (token, _) = await account.active()
    replacement = await account.begun("new-secret", OTHER_KEY)
    assert await account.active() == [token, replacement.new.id, old.id]
    assert await account.find() is None, "no auth token is being replaced"
    await account.use(old)
    assert await account.advance(replacement) == "wait"
    await account.pass_time(3)
    assert await account.advance(replacement) == "done"
    assert await account.active() == [token, replacement.new.id]
    assert await account.begin("new-secret", OTHER_KEY) is None


async def test_the_old_key_stays_if_twilio_refuses_a_request_with_the_new_one(account: Account) -> None:
    """A restricted key may be allowed to read calls and not to create them."""
    old = await account.add("old-secret", KEY)
    await account.at_twilio(primary=account.tenant.auth_token, **{KEY: "old-secret", OTHER_KEY: "new-secret"})
    replacement = await account.begun("new-secret", OTHER_KEY)
    await account.reject(replacement.new)
    await account.pass_time(60)
    before = await account.active()
    with pytest.raises(
        AdministrationError, match=r"refused the new credential .* for a request at \d{4}-.*: the old one stays"
    ):
        await account.advance(replacement)
    assert old.id in before
    assert await account.active() == before


async def test_a_token_that_twilio_has_refused_is_not_to_be_promoted(account: Account) -> None:
    replacement = await account.begun("second")
    await account.reject(replacement.new)
    with pytest.raises(AdministrationError, match="for a request at"):
        await account.advance(replacement)


async def test_a_credential_that_twilio_accepts_again_is_tried_first_again(account: Account) -> None:
    (first,) = await account.active()
    second = await account.add("second")
    await account.reject(second)
    replacement = await account.begun("second")
    assert (replacement.new.id, replacement.new.rejected_at, replacement.new.rejected_reason) == (second.id, None, None)
    assert await account.active() == [second.id, first]
    assert await account.advance(replacement) == "promote"


async def test_with_several_keys_the_old_one_must_be_named(account: Account) -> None:
    keys = [await account.add(f"secret-{number}", f"SK{number:032x}") for number in range(2)]
    await account.at_twilio(primary=None, **{OTHER_KEY: "new-secret"})
    with pytest.raises(AdministrationError, match="say which credential") as refused:
        await account.begin("new-secret", OTHER_KEY)
    assert all(str(key.id) in str(refused.value) for key in keys)
    replacement = await account.begun("new-secret", OTHER_KEY, keys[1].id)
    assert replacement.old.id == keys[1].id
    assert (await account.active())[1:] == [keys[0].id, replacement.new.id, keys[1].id]


async def test_what_is_not_there_cannot_be_replaced(account: Account) -> None:
    with pytest.raises(AdministrationError, match="no such credential to replace"):
        await account.begin("new-secret", KEY)
    with pytest.raises(NoSuchResource, match="no active credential"):
        await account.begin("second", None, UUID(int=1))
    with pytest.raises(NoSuchResource, match="no account"):
        await account.rotation.find_replacement(account.tenant.id, account_sid="AC" + "e" * 32, key_sid=None, old_id=None)
    with pytest.raises(AdministrationError, match="an account SID is"):
        await account.rotation.find_replacement(account.tenant.id, account_sid="AC1", key_sid=None, old_id=None)


async def test_a_third_token_in_the_middle_of_a_rotation_replaces_both(account: Account) -> None:
    (first,) = await account.active()
    second = (await account.begun("second")).new
    await account.at_twilio(primary="second", secondary="third")
    replacement = await account.begin("third", None, second.id)
    assert replacement is not None
    assert await account.active() == [replacement.new.id, second.id, first]
    oldest = await account.find()
    assert oldest is not None
    assert (oldest.old.id, oldest.new.id) == (first, replacement.new.id)
    assert await account.advance(oldest) == "wait"
    await account.pass_time(3)
    assert await account.advance(oldest) == "done"
    following = await account.find()
    assert following is not None
    assert following.old.id == second.id
    assert await account.advance(following) == "promote"


async def test_an_old_token_that_cannot_be_opened_can_be_replaced(account: Account) -> None:
    async with account.gateway.database.begin() as session:
        statement = "UPDATE twilio_credential SET sealed_secret = '\\x01' WHERE username = :sid"
        await session.execute(text(statement), {"sid": account.tenant.account_sid})
    replacement = await account.begun("second")
    await account.pass_time(3)
    assert await account.advance(replacement) == "wait"
    await account.pass_time(3)
    assert await account.advance(replacement) == "done"


async def test_a_rotation_goes_on_with_another_process(account: Account) -> None:
    replacement = await account.begun("second")
    await account.promote()
    another = replace(account.rotation, keyring=Keyring(account.gateway.settings.require_secret_keys()))
    found = await another.find_replacement(account.tenant.id, account_sid=account.tenant.account_sid, key_sid=None, old_id=None)
    assert found == replacement
    await account.pass_time(3)
    assert await account.advance(replacement) == "wait"
    await account.pass_time(3)
    assert (await another.advance_replacement(replacement, min_unused_time=QUIET)).step == "done"
    with pytest.raises(AdministrationError, match="revoked meanwhile"):
        await account.advance(replacement)
