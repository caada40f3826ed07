"""Tests /docs in a real headless Chromium: a person authorizes and runs the SIP example, and no request leaves loopback."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.support.browser import BROWSER_MARKS, PageRecord, chromium
from tests.support.gateway import Gateway
from tests.support.upstream import created, running_upstream

pytestmark = BROWSER_MARKS


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with chromium() as browser:
        yield await browser.new_page(viewport={"width": 1280, "height": 1600})


async def test_sip_example_is_executed_from_the_docs_page(gateway: Gateway, page: Page, tmp_path: Path) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        seen = PageRecord(page)
        await page.goto(gateway.url)
        assert page.url == f"{gateway.url}/docs"
        await page.get_by_role("button", name="Authorize").first.click()
        dialog = page.locator(".modal-ux")
        await dialog.locator("input").fill(tenant.key)
        await dialog.get_by_role("button", name="Apply credentials").click()
        await dialog.get_by_role("button", name="Close").click()
        operation = page.locator("#operations-calls-create_call")
        await operation.locator(".opblock-summary").click()
        await operation.get_by_role("button", name="Try it out").click()
        await operation.get_by_role("button", name="Execute").click()
        status = operation.locator(".live-responses-table .response-col_status").last
        await status.wait_for()
        assert (await status.inner_text()).startswith("201")
        await page.screenshot(path=os.environ.get("CALLGATE_SCREENSHOT") or tmp_path / "docs.png")
        assert dict(upstream.posts[0].form)["To"] == "sip:kate@example.com"
    assert seen.hosts == {"127.0.0.1"}
    assert seen.errors == []


async def test_redoc_renders_without_leaving_loopback_and_without_errors(gateway: Gateway, page: Page) -> None:
    seen = PageRecord(page)
    await page.goto(f"{gateway.url}/redoc")
    await page.get_by_role("heading", name="Place a call").first.wait_for()
    await page.wait_for_load_state("networkidle")
    assert seen.hosts == {"127.0.0.1"}
    assert seen.errors == []


async def test_the_201_stands_before_the_200_of_a_replay(gateway: Gateway, page: Page) -> None:
    await page.goto(f"{gateway.url}/docs")
    operation = page.locator("#operations-calls-create_call")
    await operation.locator(".opblock-summary").click()
    await operation.locator("tr.response").first.wait_for()
    statuses = await operation.locator("tr.response").evaluate_all("rows => rows.map(row => row.dataset.code)")
    assert statuses[:4] == ["201", "200", "202", "400"]
    await page.goto(f"{gateway.url}/redoc")
    heading = page.get_by_role("heading", name="Place a call").first
    await heading.wait_for()
    section = page.locator("[data-section-id='tag/calls/operation/create_call']")
    statuses = [text.split()[0] for text in await section.locator("button:has(strong)").all_inner_texts()]
    assert statuses[:4] == ["201", "200", "202", "400"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_page_says_the_motto_once_and_leads_to_the_guides(gateway: Gateway, page: Page, path: str) -> None:
    seen = PageRecord(page)
    await page.goto(gateway.url + path)
    await page.get_by_role("heading", name="calls").first.wait_for()
    text = await page.locator("body").inner_text()
    assert text.lower().count("at most one ring") == 1
    assert "Press Authorize" not in text
    names = ("Errors", "Migrating")
    links = [await page.get_by_role("link", name=name, exact=True).first.get_attribute("href") for name in names]
    assert links == ["/docs/errors", "/docs/migrating"]
    for link in links:
        await page.goto(f"{gateway.url}{link}")
        await page.get_by_role("heading", level=1).wait_for()
    assert seen.errors == []
