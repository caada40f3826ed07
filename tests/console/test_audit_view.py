"""Tests how the page of the audit log reads its filters and describes each event."""

from datetime import UTC, datetime
from typing import get_args
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from app.audit.events import AuditAction
from app.audit.service import AUDIT_CURSOR_PATTERN
from app.audit.store import AuditEventRow, AuditFilter
from app.console.audit.view import AuditLine, AuditPageQuery

AT = datetime(2026, 11, 28, 12, 0, 31, tzinfo=UTC)


def row(action: str, **members: object) -> AuditEventRow:
    values: dict[str, object] = {"changed": [], "tenant_id": "support", "request_id": None, "actor_name": "cgk_0123456789ab"}
    values["subject"] = AT.isoformat() if action == "delivery.replay" else "support"
    return AuditEventRow(UUID(int=7), AT, "key", action=action, **values | members)  # type: ignore[arg-type]


def test_the_filters_are_read_and_the_session_limits_them() -> None:
    query = AuditPageQuery(
        tenant="other", actor="root", action="key.create", since="2026-11-28T09:30", until="2026-11-28T10:30+01:00"
    )
    since = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
    expected = AuditFilter("other", "root", "key.create", since, since)
    assert query.parse_filters(None) == (expected, {})
    assert query.parse_filters("support")[0].tenant_id == "support"
    assert AuditPageQuery().parse_filters(None) == (AuditFilter(), {})
    assert AuditPageQuery().parse_filters("support") == (AuditFilter(tenant_id="support"), {})


@pytest.mark.parametrize(
    ("name", "text"),
    [("since", "yesterday"), ("until", "0001-01-01T00:00+14:00"), ("tenant", "a\x00b"), ("actor", "x" * 300), ("cursor", "x")],
)
def test_a_filter_that_cannot_be_read_is_named(name: str, text: str) -> None:
    _, faults = AuditPageQuery(**{name: text}).parse_filters(None)
    assert faults.keys() == {name}
    assert text not in faults[name]


def test_the_next_page_keeps_the_filters() -> None:
    query = AuditPageQuery(tenant="support & co", action="key.create")
    cursor = "A" * 32
    assert AUDIT_CURSOR_PATTERN.fullmatch(cursor)
    address = query.page_url(cursor)
    assert address
    assert parse_qs(urlsplit(address).query) == {
        "tenant": ["support & co"],
        "action": ["key.create"],
        "cursor": [cursor],
    }
    assert query.first_page_url is None
    assert AuditPageQuery(cursor=cursor).first_page_url == "/console/audit"
    assert query.page_url(None) is None


def test_an_event_is_described_in_words() -> None:
    line = AuditLine.from_row(row("tenant.update", changed=["suspended", "name"]))
    assert (line.action_text, line.changed, line.actor_kind) == ("tenant changed", "suspended, name", "API key")
    assert AuditLine.from_row(row("sip_credential.delete")).action_text == "SIP credential deleted"


def test_a_pause_and_its_end_are_told_apart_and_bare_ids_are_explained() -> None:
    deeds = [AuditLine.from_row(row(f"{noun}.{verb}")).action_text for noun, verb in (("queue", "pause"), ("queue", "resume"))]
    assert deeds == ["queue paused", "queue resumed"]
    assert AuditLine.from_row(row("tenant.suspend")).action_text == "tenant suspended"
    assert AuditLine.from_row(row("account.skip")).action_text == "account skipped"
    released = AuditLine.from_row(row("grants.release"))
    assert (released.action_text, released.subject_kind) == ("scheduled calls released", "server")
    replayed = AuditLine.from_row(row("delivery.replay", subject=AT.isoformat()))
    assert (replayed.action_text, replayed.subject_kind, replayed.subject_at) == ("deliveries sent again", "since", AT)
    assert AuditLine.from_row(row("console.login")).subject_kind == "session"
    assert AuditLine.from_row(row("key.create")).subject_kind == ""


def test_an_event_has_the_address_of_the_page_of_its_subject() -> None:
    assert AuditLine.from_row(row("call.end")).subject_path == "/console/calls/support"
    assert AuditLine.from_row(row("queue.cancel", tenant_id="a&b")).subject_path == "/console/queues/a%26b/support"
    assert AuditLine.from_row(row("queue.cancel", tenant_id=None)).subject_path is None
    assert AuditLine.from_row(row("key.revoke", tenant_id="a&b")).subject_path == "/console/tenants/a%26b"
    assert AuditLine.from_row(row("key.revoke", tenant_id=None)).subject_path is None
    assert AuditLine.from_row(row("delivery.retry")).subject_path == "/console/deliveries/support/support"
    assert AuditLine.from_row(row("delivery.replay")).subject_path is None


@pytest.mark.parametrize("action", get_args(AuditAction))
def test_every_action_has_words(action: str) -> None:
    assert AuditLine.from_row(row(action)).action_text != action.replace(".", " ")
