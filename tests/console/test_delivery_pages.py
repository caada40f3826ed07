"""Tests the pages of deliveries: which deliveries a person sees, what is shown of them, and how a person sends them again."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.console.deliveries.store import MAX_TENANTS
from app.console.page_size import PAGE_SIZE
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, follow, text_of
from tests.console.rows import add_delivery
from tests.support.gateway import Gateway, Tenant


async def deeds(gateway: Gateway, tenant_id: str, actor: str) -> list[str]:
    events, _ = await AuditLog(gateway.database).list(AuditFilter(tenant_id=tenant_id, actor_name=actor), limit=50)
    return [event.action for event in reversed(events) if not event.action.startswith("console.")]


async def state_of(gateway: Gateway, delivery_id: UUID) -> str:
    (row,) = await gateway.database.fetch("SELECT state FROM delivery WHERE id = $1", delivery_id)
    return str(row[0])


async def new_call(tenant: Tenant) -> UUID:
    return UUID((await tenant.create()).raise_for_status().json()["id"])


async def test_an_operator_sees_what_waits_of_each_tenant(gateway: Gateway, log_in: LogIn) -> None:
    first, second = await gateway.add_tenant(), await gateway.add_tenant()
    operator = await log_in(None, Scope.READ)
    assert "No delivery waits" in text_of(await operator.get("/deliveries"))
    await add_delivery(gateway, first.id, attempts=2, last_status=503)
    await add_delivery(gateway, second.id)
    shown = text_of(await operator.get("/deliveries"))
    assert re.search(rf"{first.id} 1 1 \S+ \S+ UTC answered 503", shown)
    assert re.search(rf"{second.id} 1 0 \S+ \S+ UTC –", shown)
    own = text_of(await operator.get("/deliveries", params={"tenant": first.id}))
    assert "retrying" in own
    assert "2 attempts failed" in own


async def test_a_tenant_sees_its_own_only(gateway: Gateway, log_in: LogIn) -> None:
    own, other = await gateway.add_tenant(), await gateway.add_tenant()
    call_id = uuid7()
    await add_delivery(gateway, other.id, call_id=call_id)
    await add_delivery(gateway, own.id, url="https://user:pl4nted@hooks.example.com/calls?token=pl4nted")
    person = await log_in(own.id, Scope.READ)
    answer = await person.get("/deliveries")
    assert "https://hooks.example.com/calls?•••" in text_of(answer)
    assert "pl4nted" not in answer.text
    assert str(call_id) not in answer.text
    assert "Send again" not in answer.text
    assert (await person.get("/deliveries", params={"tenant": other.id})).status_code == 404
    assert (await (await log_in()).get("/deliveries", params={"tenant": "a\x00b"})).status_code == 404
    assert (await person.get("/deliveries", params={"cursor": "x"})).status_code == 422


async def test_each_delivery_names_its_call(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call = (await tenant.create(to="sip:kate.private@example.com", **{"from": "+14155550123"})).raise_for_status().json()
    deleted, operator = uuid7(), await log_in()
    for call_id in (UUID(call["id"]), deleted):
        await add_delivery(gateway, tenant.id, call_id=call_id)
        await add_delivery(gateway, tenant.id, call_id=call_id, state="gave_up", attempts=9)
    for state in ("waiting", "given_up"):
        page = await operator.get("/deliveries", params={"tenant": tenant.id, "state": state})
        assert f'<a href="/console/calls/{call["id"]}">sip:k•••@example.com</a>' in page.text
        assert f"from +•••0123 {call['sid']}" in text_of(page)
        assert f"deleted call {deleted}" in text_of(page)
        assert f"/console/calls/{deleted}" not in page.text
        assert "kate.private" not in page.text


async def test_send_again_is_offered_only_for_what_was_sent(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call_id, operator = await new_call(tenant), await log_in()
    await add_delivery(gateway, tenant.id, call_id=call_id)
    tried = await add_delivery(gateway, tenant.id, call_id=call_id, attempts=2, last_status=500)
    page = await operator.get("/deliveries", params={"tenant": tenant.id})
    assert re.findall(r"/([\w-]+)/retry", page.text) == [str(tried)]
    assert re.findall(r"/([\w-]+)/retry", (await operator.get(f"/calls/{call_id}")).text) == [str(tried)]


async def test_lists_come_in_pages(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call_id, operator = await new_call(tenant), await log_in()
    for number in range(PAGE_SIZE + 4):
        await add_delivery(gateway, tenant.id, call_id=call_id, attempts=1, due_s=number)
        await add_delivery(gateway, tenant.id, call_id=call_id, state="gave_up", attempts=9, age_s=number)
    for state in ("waiting", "given_up"):
        first = await operator.get("/deliveries", params={"tenant": tenant.id, "state": state})
        found = re.search(r'rel="next" href="/console([^"]+)"', first.text)
        assert found
        second = await operator.get(unescape(found[1]))
        assert [answer.text.count("/retry") for answer in (first, second)] == [PAGE_SIZE, 4]
        assert 'rel="next"' not in second.text


async def test_one_delivery_is_sent_again(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call_id, person = await new_call(tenant), await log_in()
    given_up = await add_delivery(gateway, tenant.id, call_id=call_id, state="gave_up", attempts=9, last_error="resolve")
    page = await person.get("/deliveries", params={"tenant": tenant.id, "state": "given_up"})
    assert "the host has no address" in text_of(page)
    found = re.search(r'action="/console(/deliveries/[^"]+/retry)"', page.text)
    assert found
    answer = await person.post(found[1])
    assert "1 delivery is sent again now." in text_of(await follow(person, answer))
    assert await state_of(gateway, given_up) == "pending"
    assert await deeds(gateway, tenant.id, person.key_id) == ["delivery.retry"]
    for wrong in (f"{call_id}/{uuid4()}", f"{call_id}/x", f"{uuid4()}/{given_up}", f"x/{given_up}"):
        assert (await person.post(f"/deliveries/{tenant.id}/{wrong}/retry")).status_code == 404


async def test_all_that_were_given_up_since_a_time_are_sent_again(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call_id, person = await new_call(tenant), await log_in(tenant.id)
    old, new = [
        await add_delivery(gateway, tenant.id, call_id=call_id, state="gave_up", attempts=9, age_s=age) for age in (7200, 60)
    ]
    since = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M")
    path = f"/deliveries/{tenant.id}/replay"
    for wrong in ("", "yesterday", "2026-13-01T00:00"):
        answer = await person.post(path, since=wrong)
        assert answer.status_code == 422
        assert "Choose a date and a time, such as 2026-11-28 09:30." in text_of(answer)
        assert 'name="since" value="" required aria-invalid="true" aria-describedby="since-fault"' in answer.text
    # Whoever opens the address of the refused form comes to the list that has the form.
    assert 'name="since"' in (await follow(person, await person.get(path))).text
    assert "1 delivery is sent again now." in text_of(await follow(person, await person.post(path, since=since)))
    assert [await state_of(gateway, each) for each in (old, new)] == ["gave_up", "pending"]
    assert "No delivery of an event since then was given up." in text_of(
        await follow(person, await person.post(path, since=since))
    )
    assert await deeds(gateway, tenant.id, person.key_id) == ["delivery.replay"]


async def test_the_form_has_a_time_that_browsers_take(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    operator = await log_in()
    assert "Send all of them again" not in (await operator.get(f"/deliveries?tenant={tenant.id}&state=given_up")).text
    await add_delivery(gateway, tenant.id, state="gave_up", attempts=9)

    async def shown(**given: str) -> datetime:
        page = await operator.get("/deliveries", params={"tenant": tenant.id, "state": "given_up"} | given)
        found = re.search(r'<input type="datetime-local" name="since" value="([\d-]{10}T\d\d:\d\d)"', page.text)
        assert found
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)

    assert await shown(since="2026-11-28T09:30:12.5+01:00") == datetime(2026, 11, 28, 8, 30, tzinfo=UTC)
    day_ago = datetime.now(UTC) - timedelta(days=1, minutes=1)
    for moment in (await shown(), await shown(since="yesterday")):
        assert day_ago < moment < day_ago + timedelta(minutes=5)


async def test_nobody_else_sends_deliveries_again(gateway: Gateway, tenant: Tenant, log_in: LogIn) -> None:
    call_id, other, person = await new_call(tenant), await gateway.add_tenant(), await log_in(tenant.id)
    given_up = await add_delivery(gateway, tenant.id, call_id=call_id, state="gave_up", attempts=9)
    for path in (f"/deliveries/{tenant.id}/replay", f"/deliveries/{tenant.id}/{call_id}/{given_up}/retry"):
        fields = {"since": "2026-01-01T00:00"}
        forged = await person.http.post(f"/console{path}", data=fields, headers={"Origin": "https://evil.example"})
        assert forged.status_code == 403
        assert (await (await log_in(other.id)).post(path, **fields)).status_code == 404
        assert (await (await log_in(tenant.id, Scope.READ, Scope.CALL)).post(path, **fields)).status_code == 403
    # In the path of another tenant, its own call is not found.
    strange = f"/deliveries/{other.id}/{call_id}/{given_up}/retry"
    assert (await (await log_in()).post(strange)).status_code == 404
    assert await state_of(gateway, given_up) == "gave_up"


async def test_the_overview_comes_in_pages(gateway: Gateway, log_in: LogIn) -> None:
    operator = await log_in()
    for number in range(MAX_TENANTS + 1):
        await add_delivery(gateway, f"zz-{number:03}")
    first = await operator.get("/deliveries", params={"cursor": "zz"})
    found = re.search(r'rel="next" href="/console([^"]+)"', first.text)
    assert found
    second = text_of(await operator.get(unescape(found[1])))
    assert "zz-199" in text_of(first)
    assert "zz-199" not in second
    assert "zz-200" in second
    last = await operator.get("/deliveries", params={"cursor": "zz-000"})  # exactly MAX_TENANTS tenants come after it
    assert "zz-200" in text_of(last)
    assert 'rel="next"' not in last.text


async def test_a_delivery_leads_to_its_call(gateway: Gateway, log_in: LogIn) -> None:
    tenant, other, call_id = await gateway.add_tenant(), await gateway.add_tenant(), uuid7()
    delivery_id = await add_delivery(gateway, tenant.id, call_id=call_id)
    path = f"/deliveries/{tenant.id}/{delivery_id}"
    for person in (await log_in(tenant.id, Scope.READ), await log_in()):
        answer = await person.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/console/calls/{call_id}")
        assert (await person.get(f"/deliveries/{tenant.id}/{uuid7()}")).status_code == 404
        assert (await person.get(f"/deliveries/{tenant.id}/nothing")).status_code == 404
    assert (await (await log_in(other.id)).get(path)).status_code == 404
    assert (await (await log_in()).get(f"/deliveries/{other.id}/{delivery_id}")).status_code == 404
