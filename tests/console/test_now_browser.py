"""Tests the page *Now* in a real Chromium: its plots, the parts that it reloads, and what it shows without JavaScript."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from app.jobs.rollup import CallCountRollUp
from tests.console.test_browser import Tab
from tests.support.browser import BROWSER_MARKS, PageRecord, chromium
from tests.support.gateway import Gateway, Tenant

pytestmark = BROWSER_MARKS

HIDDEN = "Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true })"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(color_scheme="light")
    yield context
    await context.close()


async def _tab(context: BrowserContext, gateway: Gateway) -> tuple[Tab, list[str]]:
    """Opens *Now* with a clock that the test moves. Returns the tab, and a list that collects its later requests."""
    page = await context.new_page()
    tab = Tab(page, PageRecord(page))
    await page.clock.install()
    await page.add_init_script(HIDDEN)
    await tab.log_in(gateway, path="/console/now")
    await page.locator(".uplot").nth(5).wait_for()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url.removeprefix(f"{gateway.url}/console/now")))
    return tab, sent


async def _wait_for_colour(page: Page, plot: str, colour: str, *, instead_of: str = "") -> None:
    """Returns when the plot has pixels of the colour `colour` (such as #17804a) and none of the colour `instead_of`."""
    script = """([name, wanted, unwanted]) => {
        const canvas = document.querySelector(`[data-plot="${name}"] canvas`);
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const found = new Set();
        for (let at = 0; at < pixels.length; at += 4) {
            if (pixels[at + 3] === 255) found.add([...pixels.slice(at, at + 3)].join());
        }
        return found.has(wanted) && !found.has(unwanted);
    }"""
    await page.wait_for_function(script, arg=[plot, _rgb(colour), _rgb(instead_of)])


def _rgb(colour: str) -> str:
    return ",".join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5)) if colour else ""


async def test_plots_have_the_colours_of_the_scheme_and_say_the_values_at_the_cursor(
    gateway: Gateway, tenant: Tenant, context: BrowserContext
) -> None:
    await tenant.create()
    await gateway.database.fetch("UPDATE rollup_progress SET rolled_until = date_trunc('minute', now()) - interval '2 hours'")
    while await CallCountRollUp(gateway.database, timedelta(days=30), has_public_url=False).step():
        pass
    await gateway.database.fetch("UPDATE rollup SET started = 7 WHERE seconds = 60 AND tenant_id = ''")
    tab, _ = await _tab(context, gateway)
    page = tab.page
    await _wait_for_colour(page, "calls", "#17804a")
    await page.emulate_media(color_scheme="dark")
    await _wait_for_colour(page, "calls", "#63cf90", instead_of="#17804a")
    await page.locator("[data-plot=calls] .u-over").hover()
    await expect(page.locator("[data-plot=calls] .u-legend")).to_contain_text(re.compile(r"Started\s*7"))
    # The other plots show the same moment.
    await expect(page.locator("[data-plot=waiting] .u-legend tr").last).to_contain_text(":")
    tab.require_clean()


async def test_the_sentence_refreshes_itself_while_the_tab_is_visible(gateway: Gateway, context: BrowserContext) -> None:
    tab, sent = await _tab(context, gateway)
    page = tab.page
    await page.evaluate("document.querySelector('#summary .lead').textContent = 'old'")
    await page.clock.fast_forward(11_000)
    await expect(page.locator("#summary .lead")).not_to_have_text("old")
    assert sent == ["/summary"]
    await page.evaluate("window.isHidden = true")
    for _ in range(12):
        await page.clock.fast_forward(11_000)
    assert sent == ["/summary"]
    # As soon as the tab is shown again, both are asked for, once.
    async with page.expect_request("**/figures*"), page.expect_response("**/summary"):
        await page.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    assert sorted(sent) == ["/figures?range=1h", "/summary", "/summary"]
    tab.require_clean()


async def test_a_page_that_cannot_be_refreshed_says_so_until_it_can(gateway: Gateway, context: BrowserContext) -> None:
    tab, _ = await _tab(context, gateway)
    page = tab.page
    note = page.get_by_text("This could not be refreshed since then.")
    await expect(note).to_be_hidden()
    await page.route("**/summary", lambda route: route.abort())
    await page.clock.fast_forward(11_000)
    await expect(note).to_be_visible()
    await page.unroute("**/summary")
    await page.clock.fast_forward(11_000)
    await expect(note).to_be_hidden()


async def test_without_script_the_table_has_the_numbers(gateway: Gateway, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    tab = Tab(page, PageRecord(page))
    await tab.log_in(gateway, path="/console/now?range=24h")
    await expect(page.get_by_text("The plots need JavaScript.")).to_be_visible()
    await page.get_by_text("The same as a table").click()
    await expect(page.get_by_role("columnheader", name="Not started")).to_be_visible()
    await page.get_by_role("link", name="7 d").click()
    await expect(page).to_have_url(f"{gateway.url}/console/now?range=7d")
    await context.close()
    tab.require_clean()
