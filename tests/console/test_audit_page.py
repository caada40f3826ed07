"""Tests the page of the audit log: which events a person sees, the filters, and the pages of a long list."""

import re
from dataclasses import replace
from html import unescape

from app.audit.events import Actor
from app.console.page_size import PAGE_SIZE
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, text_of
from tests.support.gateway import Gateway


async def test_a_tenant_sees_its_own_events_and_an_operator_all(gateway: Gateway, log_in: LogIn) -> None:
    own, other = await gateway.add_tenant(), await gateway.add_tenant()
    person, operator = await log_in(own.id, Scope.READ), await log_in()
    shown = text_of(await person.get("/audit"))
    assert own.account_sid in shown
    assert other.account_sid not in shown
    shown = text_of(await operator.get("/audit"))
    assert own.account_sid in shown
    assert other.account_sid in shown
    assert f"logged in API key {operator.key_id}" in shown
    # The filter of a tenant's session is its own tenant, whatever the form says.
    shown = text_of(await person.get("/audit", params={"tenant": other.id}))
    assert other.account_sid not in shown
    assert own.account_sid in shown


async def test_filters_narrow_the_list(gateway: Gateway, log_in: LogIn) -> None:
    tenant, operator = await gateway.add_tenant(), await log_in()
    answer = await operator.get("/audit", params={"tenant": tenant.id, "action": "account.create"})
    rows = re.findall(r"(?s)<tr>\s*<td>.*?</tr>", answer.text)
    assert len(rows) == 1
    assert tenant.account_sid in rows[0]
    assert "<option selected>account.create</option>" in answer.text
    nothing = await operator.get("/audit", params={"tenant": tenant.id, "since": "2999-01-01T00:00"})
    assert "No change matches" in text_of(nothing)
    by_login = text_of(await operator.get("/audit", params={"actor": operator.key_id}))
    assert "logged in" in by_login
    assert tenant.account_sid not in by_login


async def test_actors_without_a_name_are_shown_and_found_as_question_marks(gateway: Gateway, log_in: LogIn) -> None:
    operator = await log_in()
    await replace(gateway.tenants, actor=Actor("cli", None)).create_tenant("unnamed", name="x")
    shown = text_of(await operator.get("/audit", params={"actor": "?"}))
    assert "command ? unnamed" in shown
    assert "API key" not in shown


async def test_a_filter_that_cannot_be_read_shows_no_list(gateway: Gateway, log_in: LogIn) -> None:
    tenant, operator = await gateway.add_tenant(), await log_in()
    answer = await operator.get("/audit", params={"tenant": tenant.id, "since": "yesterday"})
    assert answer.status_code == 422
    assert "Since: Give a time in UTC" in text_of(answer)
    assert tenant.account_sid not in answer.text


async def test_the_list_comes_in_pages(gateway: Gateway, log_in: LogIn) -> None:
    tenant, operator = await gateway.add_tenant(), await log_in()
    for number in range(PAGE_SIZE + 5):
        await gateway.tenants.update_tenant(tenant.id, {"name": f"Name {number}"})
    first = await operator.get("/audit", params={"tenant": tenant.id, "action": "tenant.update"})
    found = re.search(r'rel="next" href="/console([^"]+)"', first.text)
    assert found
    second = await operator.get(unescape(found[1]))
    assert [answer.text.count("tenant changed") for answer in (first, second)] == [PAGE_SIZE, 5]
    assert 'rel="next"' not in second.text
    assert "First page" in second.text
