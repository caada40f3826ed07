"""Every administrative change is recorded in its own transaction: who made it and which members changed, but no values."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from app.audit.events import Actor
from app.audit.service import AuditLog, decode_audit_cursor
from app.audit.store import AuditEventRow, AuditFilter
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.errors import AdministrationError
from tests.support.gateway import Gateway

SECRETS = (
    "planted-auth-token-in-audit",
    "https://planted.example.com/told",
    "planted name",
    "https://planted-base.example.com",
)
ACCOUNT_SID = "AC" + "a0" * 16


@pytest.fixture
def tenants(gateway: Gateway) -> TenantAdministration:
    return replace(gateway.tenants, actor=Actor("key", "cgk_0123456789ab", "request-1"))


async def events_of(gateway: Gateway, tenant_id: str | None = None, **filters: Any) -> list[AuditEventRow]:
    events, following = await AuditLog(gateway.database).list(AuditFilter(tenant_id=tenant_id, **filters), limit=200)
    assert following is None
    return events


def summary(events: list[AuditEventRow]) -> list[tuple[str, str, list[str]]]:
    """Returns the action, the subject and the changed members of each event, the oldest first."""
    return [(event.action, event.subject, event.changed) for event in reversed(events)]


async def test_every_change_is_recorded_once_and_without_values(gateway: Gateway, tenants: TenantAdministration) -> None:
    token, url, name, base_url = SECRETS
    await tenants.create_tenant("audited", name=name)
    for _ in range(2):
        await tenants.set_tenant_suspended("audited", suspended=True)
        await tenants.configure_callbacks("audited", url=url, events=["ringing"], callback_format="json")
    await tenants.set_tenant_suspended("audited", suspended=False)
    secret = await tenants.renew_callback_secret("audited")
    credentials = [
        await tenants.add_credential("audited", account_sid=ACCOUNT_SID, secret=secret_, key_sid=None, base_url=base)
        for secret_, base in ((token, None), (token, base_url), ("another", base_url), ("another", base_url))
    ]
    assert [credential.id for credential in credentials] == [credentials[place].id for place in (0, 0, 2, 2)]
    row, key = await tenants.create_key("audited", name=name, creator=COMMAND_LINE_CALLER)
    for _ in range(2):
        await tenants.revoke_credential("audited", credentials[0].id)
        await tenants.revoke_key(row.prefix)

    events = await events_of(gateway, "audited")
    assert summary(events) == [
        ("tenant.create", "audited", []),
        ("tenant.suspend", "audited", []),
        ("tenant.update", "audited", ["status_callback", "status_callback_events", "callback_format"]),
        ("tenant.resume", "audited", []),
        ("tenant.update", "audited", ["callback_secret"]),
        ("account.create", ACCOUNT_SID, []),
        ("credential.add", str(credentials[0].id), []),
        ("account.update", ACCOUNT_SID, ["base_url"]),
        ("credential.add", str(credentials[2].id), []),
        ("key.create", row.prefix, []),
        ("credential.revoke", str(credentials[0].id), []),
        ("key.revoke", row.prefix, []),
    ]
    assert {(event.actor_kind, event.actor_name, event.request_id) for event in events} == {
        ("key", "cgk_0123456789ab", "request-1")
    }
    async with gateway.database.begin() as session:
        stored = " ".join(await session.scalars(text("SELECT to_jsonb(audit_event)::text FROM audit_event")))
    assert "audited" in stored
    for planted in (*SECRETS, secret, key, key.split("_", 2)[2]):
        assert planted not in stored


async def test_a_question_mark_selects_actors_without_a_name(gateway: Gateway, tenants: TenantAdministration) -> None:
    unnamed = replace(tenants, actor=Actor("cli", None))
    await unnamed.create_tenant("unnamed", name="x")
    await tenants.set_tenant_suspended("unnamed", suspended=True)
    assert summary(await events_of(gateway, "unnamed", actor_name="?")) == [("tenant.create", "unnamed", [])]
    assert summary(await events_of(gateway, "unnamed", actor_name="cgk_0123456789ab")) == [("tenant.suspend", "unnamed", [])]


async def test_what_fails_is_not_recorded(gateway: Gateway, tenants: TenantAdministration) -> None:
    await tenants.create_tenant("failing", name="x")
    with pytest.raises(AdministrationError):
        await tenants.create_tenant("failing", name="y")
    with pytest.raises(AdministrationError):
        await tenants.configure_callbacks("failing", method="GET")
    with pytest.raises(AdministrationError):
        await tenants.set_tenant_suspended("missing", suspended=True)
    with pytest.raises(AdministrationError):
        await tenants.renew_callback_secret("missing")
    with pytest.raises(AdministrationError):
        await tenants.revoke_credential("failing", UUID(int=1))
    assert summary(await events_of(gateway, "failing")) == [("tenant.create", "failing", [])]
    assert await events_of(gateway, "missing") == []


async def test_of_two_racing_changes_that_do_the_same_one_is_recorded(gateway: Gateway, tenants: TenantAdministration) -> None:
    await tenants.create_tenant("racing", name="x")
    await asyncio.gather(*(tenants.set_tenant_suspended("racing", suspended=True) for _ in range(4)))
    added = await asyncio.gather(
        *(
            tenants.add_credential("racing", account_sid=ACCOUNT_SID, secret=f"s{n}", key_sid=None, base_url=SECRETS[3])
            for n in range(4)
        )
    )
    await asyncio.gather(*(tenants.revoke_credential("racing", added[0].id) for _ in range(4)))
    actions = [action for action, _, _ in summary(await events_of(gateway, "racing"))]
    assert actions[:2] == ["tenant.create", "tenant.suspend"]
    assert sorted(actions[2:]) == ["account.create", *["credential.add"] * 4, "credential.revoke"]


async def test_a_change_and_its_event_are_committed_together(gateway: Gateway, tenants: TenantAdministration) -> None:
    """A change whose event cannot be written does not take place."""
    await tenants.create_tenant("together", name="x")
    async with gateway.database.begin() as session:
        await session.execute(
            text("ALTER TABLE audit_event ADD CONSTRAINT nobody CHECK (action <> 'tenant.suspend') NOT VALID")
        )
    try:
        with pytest.raises(Exception, match="nobody"):
            await tenants.set_tenant_suspended("together", suspended=True)
    finally:
        async with gateway.database.begin() as session:
            await session.execute(text("ALTER TABLE audit_event DROP CONSTRAINT nobody"))
    assert (await tenants.get_tenant("together")).suspended_at is None


async def test_lists_are_filtered_and_paged_by_key(gateway: Gateway, tenants: TenantAdministration) -> None:
    other = replace(tenants, actor=Actor("cli", "anna"))
    await tenants.create_tenant("paged", name="x")
    for number in range(9):
        await (tenants, other)[number % 2].create_key("paged", name=None, creator=COMMAND_LINE_CALLER)
    whole = await events_of(gateway, "paged")
    log = AuditLog(gateway.database)
    pages, before = list[AuditEventRow](), None
    while True:
        page, cursor = await log.list(AuditFilter(tenant_id="paged", before=before), limit=3)
        pages += page
        if cursor is None:
            break
        before = decode_audit_cursor(cursor)
        assert before == (page[-1].at, page[-1].id)
        # What happens meanwhile does not shift the pages.
        await tenants.create_key("paged", name=None, creator=COMMAND_LINE_CALLER)
    assert pages == whole
    assert [event.actor_name for event in await events_of(gateway, "paged", actor_name="anna")] == ["anna"] * 4
    assert len(await events_of(gateway, "paged", action="tenant.create")) == 1
    middle = whole[4]
    assert await events_of(gateway, "paged", until=whole[3].at, since=middle.at) == [middle]
    assert [decode_audit_cursor(text) for text in ("", "x", "A" * 33, "_" * 32)] == [None] * 4
