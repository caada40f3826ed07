"""Tests the pages about calls in a real Chromium: a person watches a call ring, ends it, and copies its link."""

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.console.test_browser import SCREENS, Tab, browser, packages, tab
from tests.console.test_call_pages import KATE, gateway, place, report, updated
from tests.support.accessibility import serious_violations_in
from tests.support.browser import BROWSER_MARKS, PageRecord
from tests.support.gateway import Gateway, Tenant
from tests.support.upstream import created, running_upstream

__all__ = ["browser", "gateway", "packages", "tab"]

pytestmark = BROWSER_MARKS


async def test_a_call_is_followed_while_it_rings_ended_and_copied(gateway: Gateway, tab: Tab) -> None:
    async with running_upstream(created(), updated()) as upstream:
        tenant, page = await gateway.add_tenant(upstream.url), tab.page
        record = await place(tenant)
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await tab.log_in(gateway, path="/console/calls")
        await page.get_by_label("Number, SIP address, id, sid or key").fill(record["sid"])
        await page.get_by_role("button", name="Search").click()
        await page.wait_for_url(f"**/console/calls/{record['id']}")
        await page.get_by_text("In Twilio's queue").wait_for()

        # The page refreshes itself, and what was opened stays open.
        await page.locator("ol.timeline summary").first.click()
        await page.get_by_text("End call", exact=True).click()
        await report(gateway, tenant, record, "initiated", "ringing")
        await page.get_by_text("Ringing for").wait_for()
        assert await page.locator("ol.timeline details[open]").count() == 1
        assert len(upstream.posts) == 1
        await page.get_by_role("button", name="Yes, end this call").click()
        await page.get_by_text("The call was ended.").wait_for()
        assert len(upstream.posts) == 2
        assert await page.get_by_text("End call", exact=True).count() == 0

        await page.get_by_role("button", name="Copy link").click()
        await page.get_by_role("button", name="Copied").wait_for()
        assert await page.evaluate("navigator.clipboard.readText()") == f"{gateway.url}/console/calls/{record['id']}"
        await page.get_by_role("button", name="Reveal").click()
        await page.get_by_role("heading", name=KATE).wait_for()
        await page.get_by_role("button", name="Copy as curl").click()
        await page.get_by_role("button", name="Copied").wait_for()
        command = await page.evaluate("navigator.clipboard.readText()")
    tab.require_clean()
    shell = 'curl() { printf "%s\\n" "$@"; }\n' + command
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", shell, env={"CALLGATE_URL": "https://gate", "CALLGATE_KEY": "k"}, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert printed.decode().startswith("https://gate/v1/calls\n-H\nAuthorization: Bearer k\n")
    assert f'"to": "{KATE}"' in printed.decode()


async def test_a_call_that_cannot_be_refreshed_says_so_until_it_can(gateway: Gateway, tenant: Tenant, tab: Tab) -> None:
    record, page = await place(tenant), tab.page
    await tab.log_in(gateway, path=f"/console/calls/{record['id']}")
    note = page.get_by_text("This could not be refreshed since then.")
    await expect(note).to_be_hidden()
    await page.route("**/live", lambda route: route.abort())
    await expect(note).to_be_visible()
    await page.unroute("**/live")
    await expect(note).to_be_hidden()


@pytest.mark.parametrize("with_script", [True, False])
@pytest.mark.parametrize(("screen", "shown"), [("desktop-light", True), ("phone", False)])
async def test_the_filters_are_folded_on_a_phone_until_one_is_set(
    gateway: Gateway, browser: Browser, screen: str, *, shown: bool, with_script: bool
) -> None:
    context = await browser.new_context(**SCREENS[screen], java_script_enabled=with_script)  # type: ignore[arg-type]
    page = await context.new_page()
    await Tab(page, PageRecord(page)).log_in(gateway, path="/console/calls")
    problem, search = page.get_by_label("Problem"), page.get_by_role("button", name="Search")
    assert (await problem.is_visible(), await search.is_visible()) == (shown, True)
    if not shown:
        await page.locator("summary", has_text="Filters").click()
    await problem.fill("none-found")
    await search.click()
    await page.get_by_text("No call matches.").wait_for()
    assert await problem.is_visible()
    assert await problem.input_value() == "none-found"
    await page.get_by_role("link", name="Clear").click()
    await page.get_by_role("link", name="Clear").wait_for(state="detached")
    assert await problem.is_visible() is shown
    await context.close()


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("screen", SCREENS)
async def test_the_pages_are_accessible_and_fit(gateway: Gateway, tenant: Tenant, browser: Browser, screen: str) -> None:
    record = await place(tenant, "order-4711")
    await report(gateway, tenant, record, "initiated", "ringing")
    context = await browser.new_context(**SCREENS[screen], reduced_motion="reduce")  # type: ignore[arg-type]
    page = await context.new_page()
    open_tab = Tab(page, PageRecord(page))
    await open_tab.log_in(gateway, path=f"/console/calls/{record['id']}")
    findings = {}

    async def examine(name: str) -> None:
        too_wide = await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        found = await serious_violations_in(page) + (["wider than the screen"] if too_wide else [])
        if found:
            findings[name] = found

    await page.get_by_text("End call", exact=True).click()
    await examine("call")
    await page.get_by_role("button", name="Reveal").click()
    await page.get_by_role("heading", name=KATE).wait_for()
    await page.locator("summary").last.click()
    await examine("revealed")
    await page.goto(f"{gateway.url}/console/calls?q=sip:kate.private@example.com&status=busy")
    await examine("none found")
    assert open_tab.seen.errors == []
    await page.goto(f"{gateway.url}/console/calls?since=yesterday&colour=red")
    await examine("wrong filter")
    await context.close()
    assert findings == {}
