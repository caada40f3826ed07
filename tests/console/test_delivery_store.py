"""Tests the queries of the pages of deliveries: they read a bounded number of rows, and only rows of the tenant."""

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from app.console.deliveries import store
from app.console.deliveries.store import MAX_COUNTED_DELIVERIES, MAX_SEARCHED_DELIVERIES
from app.console.page_size import PAGE_SIZE
from tests.console.rows import URL, add_delivery, id_at
from tests.support.gateway import Gateway

_MANY = """INSERT INTO delivery (id, call_id, at, tenant_id, event, position, url, method, fields, state, next_attempt_at)
    SELECT new.id, gen_random_uuid(), $5, $2, 'completed', 4, $3, 'POST', '{}', $4,
        CASE WHEN $4 = 'pending' THEN now() END
    FROM unnest($1::uuid[]) AS new (id)"""


async def add_many(gateway: Gateway, tenant_id: str, number: int, *, state: str) -> None:
    moment = datetime.now(UTC).replace(microsecond=0)
    await gateway.database.fetch(_MANY, [id_at(moment) for _ in range(number)], tenant_id, URL, state, moment)


async def test_the_overview_has_each_tenant_with_its_numbers_and_last_error(gateway: Gateway) -> None:
    first, second = f"a-{uuid7()}", f"b-{uuid7()}"
    await add_delivery(gateway, first, attempts=2, age_s=90, last_status=503)
    await add_delivery(gateway, first, attempts=1, age_s=30, last_error="timeout")
    await add_delivery(gateway, first, state="gave_up", attempts=9, age_s=500, last_error="resolve")
    await add_many(gateway, second, MAX_COUNTED_DELIVERIES + 5, state="pending")
    of = {backlog.tenant_id: backlog for backlog in (await store.summarize_waiting_by_tenant(gateway.database))[0]}
    assert (of[first].waiting, of[first].retried, of[first].last_error) == (2, 2, "timeout")
    assert (of[second].waiting, of[second].retried, of[second].last_error) == (MAX_COUNTED_DELIVERIES, 0, None)
    after, _ = await store.summarize_waiting_by_tenant(gateway.database, after=first)
    assert first not in {backlog.tenant_id for backlog in after}
    assert second in {backlog.tenant_id for backlog in after}


async def test_waiting_deliveries_come_in_pages_those_due_first_at_the_top(gateway: Gateway) -> None:
    tenant_id, other = f"c-{uuid7()}", f"d-{uuid7()}"
    await add_delivery(gateway, other)
    held = await add_delivery(gateway, tenant_id, due_s=-10, held=True, attempts=3, last_error="tls")
    added = [await add_delivery(gateway, tenant_id, due_s=number) for number in range(PAGE_SIZE + 3)]
    lines, has_more = await store.list_waiting_deliveries(gateway.database, tenant_id)
    assert has_more
    assert [line.id for line in lines] == [held, *added[: PAGE_SIZE - 1]]
    assert (lines[0].held, lines[0].attempts, lines[0].last_error, lines[0].url) == (True, 3, "tls", URL)
    last = lines[-1]
    assert last.next_attempt_at
    rest, has_more = await store.list_waiting_deliveries(gateway.database, tenant_id, after=(last.next_attempt_at, last.id))
    assert not has_more
    assert [line.id for line in rest] == added[PAGE_SIZE - 1 :]


async def test_given_up_deliveries_come_in_pages_newest_first(gateway: Gateway) -> None:
    tenant_id = f"e-{uuid7()}"
    given_up: list[UUID] = []
    for number in range(PAGE_SIZE + 3):
        given_up.append(await add_delivery(gateway, tenant_id, state="gave_up", age_s=100 - number, last_error="connect"))
        await add_delivery(gateway, tenant_id, state="delivered", age_s=100 - number)
    await add_delivery(gateway, f"f-{uuid7()}", state="gave_up")
    page = await store.list_given_up_deliveries(gateway.database, tenant_id)
    assert [line.id for line in page.lines] == given_up[:2:-1]
    assert page.searched_to is None
    rest = await store.list_given_up_deliveries(gateway.database, tenant_id, before=page.next_before)
    assert [line.id for line in rest.lines] == given_up[2::-1]
    assert rest.next_before is None


async def test_the_search_for_given_up_deliveries_is_bounded_and_goes_on(gateway: Gateway) -> None:
    tenant_id = f"g-{uuid7()}"
    old = await add_delivery(gateway, tenant_id, state="gave_up", age_s=7200)
    await add_many(gateway, tenant_id, MAX_SEARCHED_DELIVERIES, state="delivered")
    page = await store.list_given_up_deliveries(gateway.database, tenant_id)
    assert not page.lines
    assert page.searched_to
    rest = await store.list_given_up_deliveries(gateway.database, tenant_id, before=page.next_before)
    assert [line.id for line in rest.lines] == [old]
    assert (rest.next_before, rest.searched_to) == (None, None)
