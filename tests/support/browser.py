"""A real headless Chromium without background requests, and a record of the hosts that a page requests and of its errors."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Chromium must send no requests of its own: PageRecord is to record only the hosts that pages request.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

BROWSER_MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CALLGATE_REQUIRE_BROWSER"), reason="no Chromium on this machine"
    ),
]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class PageRecord:
    """Records the hosts that a page requested, and the page's errors."""

    def __init__(self, page: Page) -> None:
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        page.on("requestfinished", self._remember)
        page.on("requestfailed", self._remember)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _remember(self, request: Request) -> None:
        """Records the host of a request.

        Ignores data: and blob: addresses, which have no host, and requests that the page's CSP forbids.
        """
        host = urlsplit(request.url).hostname
        if host and request.failure != "csp":
            self.hosts.add(host)
