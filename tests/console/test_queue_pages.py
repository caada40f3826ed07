"""Tests the pages of queues: which queues a person sees, and how a person pauses a queue or cancels its calls."""

import re
from html import unescape

import pytest

from app.audit.service import AuditLog
from app.audit.store import AuditFilter
from app.console.page_size import PAGE_SIZE
from app.tenants.scopes import Scope
from tests.console.conftest import LogIn, follow, text_of
from tests.console.test_queue_store import add_queue, service_of
from tests.support.gateway import Gateway
from tests.support.locks import locked_table


async def deeds(gateway: Gateway, tenant_id: str, actor: str) -> list[tuple[str, str]]:
    events, _ = await AuditLog(gateway.database).list(AuditFilter(tenant_id=tenant_id, actor_name=actor), limit=50)
    return [(event.action, event.subject) for event in reversed(events) if not event.action.startswith("console.")]


async def test_an_operator_sees_all_queues_and_a_tenant_its_own(gateway: Gateway, log_in: LogIn) -> None:
    own, other = await gateway.add_tenant(), await gateway.add_tenant()
    person, operator = await log_in(own.id, Scope.READ), await log_in(None, Scope.READ)
    assert "There is no queue" in text_of(await person.get("/queues"))
    await add_queue(gateway, own, "reminders")
    await add_queue(gateway, other, "surveys")
    shown = text_of(await person.get("/queues"))
    assert "reminders" in shown
    assert "surveys" not in shown
    shown = text_of(await operator.get("/queues"))
    assert "reminders" in shown
    assert "surveys" in shown
    assert "surveys" not in text_of(await operator.get("/queues", params={"tenant": own.id}))
    assert (await person.get("/queues", params={"tenant": other.id})).text.count("surveys") == 0
    assert (await person.get(f"/queues/{other.id}/surveys")).status_code == 404
    assert (await operator.get(f"/queues/{other.id}/surveys")).status_code == 200
    assert (await operator.get(f"/queues/{other.id}/nothing")).status_code == 404
    assert (await operator.get(f"/queues/{other.id}/not%00a-name")).status_code == 404


async def test_the_links_to_other_pages_keep_the_tenant(gateway: Gateway, log_in: LogIn) -> None:
    tenant, operator = await gateway.add_tenant(), await log_in(None, Scope.READ)
    for number in range(PAGE_SIZE + 2):
        await add_queue(gateway, tenant, f"q-{number:02}")
    first = await operator.get("/queues", params={"tenant": tenant.id})
    assert "First page" not in first.text
    (following,) = re.findall(r'rel="next" href="/console([^"]*)"', first.text)
    second = await operator.get(unescape(following))
    assert f"q-{PAGE_SIZE + 1}" in second.text
    assert f'href="/console/queues?tenant={tenant.id}">First page' in second.text
    everywhere = await operator.get("/queues", params={"after_tenant": tenant.id, "after": "q-00"})
    assert 'href="/console/queues">First page' in everywhere.text


async def test_one_queue_says_how_far_it_is_and_why_the_next_call_waits(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    calls = await add_queue(gateway, tenant, "reminders", pace={"max_concurrent": 20})
    for _ in range(3):
        await calls.waiting(not_before_s=600)
    await calls.ended("started", status="completed")
    await calls.ended("not_started", problem="ring-by-passed")
    answer = await (await log_in(tenant.id, Scope.READ)).get(f"/queues/{tenant.id}/reminders")
    shown = text_of(answer)
    assert "3 calls wait. The next one waits for its time." in shown
    assert "20 at the same time" in shown
    assert "Under way 0" in shown
    assert "ring-by-passed 1" in shown
    assert "scheduled 3" in shown
    # A person who may only read is offered no act.
    assert "Pause" not in shown
    assert "Cancel" not in shown


async def test_a_queue_leads_to_its_calls(gateway: Gateway, log_in: LogIn) -> None:
    tenant, other = await gateway.add_tenant(), await gateway.add_tenant()
    calls, others = await add_queue(gateway, tenant, "reminders"), await add_queue(gateway, other, "reminders")
    call_id, elsewhere = str(await calls.waiting()), str(await others.waiting())
    unqueued = str(await (await add_queue(gateway, tenant, "surveys")).waiting())
    for person in (await log_in(tenant.id, Scope.READ), await log_in()):
        shown = (await person.get(f"/queues/{tenant.id}/reminders")).text
        addresses = {unescape(address) for address in re.findall(r'href="/console(/calls[^"]*queue=[^"]*)"', shown)}
        assert len(addresses) == 2
        for address in addresses:
            listed = (await person.get(address)).text
            assert [each in listed for each in (call_id, elsewhere, unqueued)] == [True, False, False]
    listed = (await (await log_in()).get("/calls?queue=reminders")).text
    assert [each in listed for each in (call_id, elsewhere, unqueued)] == [True, True, False]
    assert "No call matches." in text_of(await (await log_in(other.id)).get(f"/calls?tenant={tenant.id}&queue=reminders"))


async def test_the_part_that_refreshes_itself_is_the_same_without_the_rest_of_the_page(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    calls, person = await add_queue(gateway, tenant, "reminders"), await log_in(tenant.id)
    await calls.waiting(not_before_s=600)
    part = (await person.get(f"/queues/{tenant.id}/reminders/live")).text
    assert "1 call waits. The next one waits for its time." in part
    assert "<main" not in part
    whole = (await person.get(f"/queues/{tenant.id}/reminders")).text
    assert re.sub(r"<time.*?</time>", "", part.strip()) in re.sub(r"<time.*?</time>", "", whole)
    assert (await person.get(f"/queues/{tenant.id}/nothing/live")).status_code == 404


async def test_a_queue_is_paused_and_resumed(gateway: Gateway, log_in: LogIn) -> None:
    tenant, person = await gateway.add_tenant(), await log_in()
    await add_queue(gateway, tenant, "reminders")
    path = f"/queues/{tenant.id}/reminders"
    paused = await person.post(f"{path}/pause")
    assert (paused.status_code, paused.headers["Location"]) == (303, f"/console{path}")
    assert (await service_of(gateway).get(tenant.id, "reminders")).paused
    shown = text_of(await person.get(path))
    assert "Paused. No call waits." in shown
    assert "Who paused it" in shown
    assert f"queue paused API key {person.key_id}" in text_of(await person.get(f"/audit?tenant={tenant.id}&action=queue.pause"))
    assert "Resume" in shown
    assert (await person.post(f"{path}/resume")).status_code == 303
    assert not (await service_of(gateway).get(tenant.id, "reminders")).paused
    assert await deeds(gateway, tenant.id, person.key_id) == [("queue.pause", "reminders"), ("queue.resume", "reminders")]


async def test_all_that_wait_are_canceled_after_a_question(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    person, calls = await log_in(tenant.id), await add_queue(gateway, tenant, "reminders")
    for _ in range(4):
        await calls.waiting(not_before_s=600)
    path = f"/queues/{tenant.id}/reminders"
    question = await person.get(f"{path}/cancel")
    assert "4 calls wait." in text_of(question)
    assert f"The queue is of the tenant {tenant.id} ." in text_of(await (await log_in()).get(f"{path}/cancel"))
    progress = await service_of(gateway).progress(tenant.id, "reminders")
    assert progress.waiting
    assert progress.waiting.number == 4
    shown = text_of(await follow(person, await person.post(f"{path}/cancel")))
    assert "4 calls were canceled." in shown
    assert "No call waits." in shown
    assert "canceled-before-dial 4" in shown
    assert "0 calls were canceled." in text_of(await follow(person, await person.post(f"{path}/cancel")))
    assert await deeds(gateway, tenant.id, person.key_id) == [("queue.cancel", "reminders")]


async def test_a_pause_that_may_not_yet_apply_says_that_it_is_stored(gateway: Gateway, log_in: LogIn) -> None:
    tenant = await gateway.add_tenant()
    person = await log_in(tenant.id)
    await add_queue(gateway, tenant, "reminders")
    async with locked_table(gateway, "pace"):
        page = await person.post(f"/queues/{tenant.id}/reminders/pause")
    assert page.status_code == 503
    assert "The change is stored, but may not yet apply to calls that already wait. Make it again." in text_of(page)
    assert (await service_of(gateway).get(tenant.id, "reminders")).paused


@pytest.mark.parametrize("act", ["pause", "resume", "cancel"])
async def test_nobody_else_acts(gateway: Gateway, log_in: LogIn, act: str) -> None:
    tenant, other = await gateway.add_tenant(), await gateway.add_tenant()
    calls = await add_queue(gateway, tenant, "reminders", paused=act == "resume")
    await calls.waiting(not_before_s=600)
    path, person = f"/queues/{tenant.id}/reminders/{act}", await log_in(tenant.id)
    forged = await person.http.post(f"/console{path}", headers={"Origin": "https://evil.example"})
    assert forged.status_code == 403
    assert (await (await log_in(other.id)).post(path)).status_code == 404
    assert (await (await log_in(tenant.id, Scope.READ, Scope.CALL)).post(path)).status_code == 403
    progress = await service_of(gateway).progress(tenant.id, "reminders")
    assert progress.state.queue.paused is (act == "resume")
    assert progress.waiting
    assert progress.waiting.number == 1
