"""Tests the page of a queue in a real Chromium: the page reloads its figures while its tab is visible."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from app.audit.events import command_actor
from tests.console.test_browser import Tab
from tests.console.test_now_browser import HIDDEN
from tests.console.test_queue_store import add_queue, service_of
from tests.support.browser import BROWSER_MARKS, PageRecord, chromium
from tests.support.gateway import Gateway, Tenant

pytestmark = BROWSER_MARKS


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


async def test_a_queue_refreshes_itself_and_keeps_the_focus(gateway: Gateway, tenant: Tenant, browser: Browser) -> None:
    calls, service = await add_queue(gateway, tenant, "reminders"), service_of(gateway)
    page = await browser.new_page()
    tab = Tab(page, PageRecord(page))
    await page.clock.install()
    await page.add_init_script(HIDDEN)
    await tab.log_in(gateway, path=f"/console/queues/{tenant.id}/reminders")
    await expect(page.locator("#queue .lead")).to_have_text("No call waits.")
    await page.get_by_role("button", name="Pause").focus()

    await calls.waiting()
    await service.change(command_actor(), tenant.id, "reminders", {"paused": True})
    await page.clock.fast_forward(11_000)
    await expect(page.locator("#queue .lead")).to_contain_text("1 call waits.")
    await expect(page.get_by_role("button", name="Resume")).to_be_focused()

    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    await page.evaluate("window.isHidden = true")
    for _ in range(3):
        await page.clock.fast_forward(11_000)
    assert sent == []
    await service.change(command_actor(), tenant.id, "reminders", {"paused": False})
    async with page.expect_response("**/live"):
        await page.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()
    # htmx takes up a new part a moment after it is shown, by a timer of the page's clock.
    await expect(page.locator("#queue:is(.htmx-added, .htmx-settling)")).to_have_count(0)

    note = page.get_by_text("This could not be refreshed since then.")
    await page.route("**/live", lambda route: route.abort())
    await page.clock.fast_forward(11_000)
    await expect(note).to_be_visible()
    await page.unroute("**/live")
    await page.clock.fast_forward(11_000)
    await expect(note).to_be_hidden()
    await page.context.close()


async def test_the_list_of_queues_refreshes_its_rows(gateway: Gateway, tenant: Tenant, browser: Browser) -> None:
    calls = await add_queue(gateway, tenant, "reminders")
    page = await browser.new_page(viewport={"width": 390, "height": 800})
    tab = Tab(page, PageRecord(page))
    await page.clock.install()
    await tab.log_in(gateway, path=f"/console/queues?tenant={tenant.id}")
    row, table = page.locator("#lines tr"), page.locator(".scroll")
    await expect(row.locator("td").nth(3)).to_have_text("0")
    await page.get_by_role("link", name="reminders").focus()
    await table.evaluate("each => each.scrollTo({left: 200})")

    await calls.waiting()
    await page.clock.fast_forward(11_000)
    await expect(row.locator("td").nth(3)).to_have_text("1")
    await expect(page.get_by_role("link", name="reminders")).to_be_focused()
    assert await table.evaluate("each => each.scrollLeft") == 200

    note = page.get_by_text("This could not be refreshed since then.")
    await page.route("**/console/queues?*", lambda route: route.abort())
    await expect(page.locator("#lines:is(.htmx-added, .htmx-settling)")).to_have_count(0)
    await page.clock.fast_forward(11_000)
    await expect(note).to_be_visible()
    await page.unroute("**/console/queues?*")
    await page.clock.fast_forward(11_000)
    await expect(note).to_be_hidden()
    await page.context.close()
