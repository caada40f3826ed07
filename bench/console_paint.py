"""Measures when the console's pages first show something in Chromium: `python -m bench.console_paint`.

Runs a real `callgate demo`, and logs in as an operator with the link that the demo prints. A cold load uses a new browser
profile that contains only the session's cookie. A warm load uses a browser that has loaded the assets before. Prints First
Contentful Paint, counted from the start of the navigation.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.async_api import Browser, BrowserContext, Page

from app.local.postgres import remove_postgres_data
from tests.cli.running import environment, free_port, running
from tests.support.browser import CHROMIUM, chromium

PATHS = ("/console/now", "/console/calls", "/console/queues", "/console/tenants")
LOADS = 8
"""How often each page is loaded cold, and how often it is loaded warm."""
_VIEWPORT = {"width": 1280, "height": 800}
# Resolves with the time of First Contentful Paint, which may be later than the load event.
_FIRST_PAINT = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => {
    for (const entry of list.getEntriesByName("first-contentful-paint")) resolve(entry.startTime);
  }).observe({ type: "paint", buffered: true });
})"""


async def first_paint_ms(page: Page, address: str) -> float:
    """Opens the address and returns its First Contentful Paint, in milliseconds from the start of the navigation."""
    await page.goto(address)
    return float(await page.evaluate(_FIRST_PAINT))


async def cold_paint_ms(browser: Browser, logged_in: BrowserContext, address: str) -> float:
    """Measures as `first_paint_ms` does, in a new browser context with the session of `logged_in` and an empty cache."""
    context = await browser.new_context(viewport=_VIEWPORT, storage_state=await logged_in.storage_state())  # type: ignore[arg-type]
    try:
        return await first_paint_ms(await context.new_page(), address)
    finally:
        await context.close()


async def measure(url: str, link: str) -> None:
    """Logs in with the link, and prints for each page when it first shows something (first paint), cold and warm."""
    print(f"  {'first paint, milliseconds':<26} {'cold, n ' + str(LOADS):>22} {'warm, n ' + str(LOADS):>22}")
    async with chromium() as browser:
        context = await browser.new_context(viewport=_VIEWPORT)  # type: ignore[arg-type]
        page = await context.new_page()
        await page.goto(link)
        await page.get_by_role("button", name="Log out").wait_for()
        for path in PATHS:
            cold = [await cold_paint_ms(browser, context, url + path) for _ in range(LOADS)]
            await page.goto(url + path)  # has the assets from here on
            warm = [await first_paint_ms(page, url + path) for _ in range(LOADS)]
            print(f"  {path:<26} {_summary(cold):>22} {_summary(warm):>22}", flush=True)


def _summary(times_ms: Sequence[float]) -> str:
    return f"{min(times_ms):.0f}–{max(times_ms):.0f}, median {statistics.median(times_ms):.0f}"


def main() -> None:
    if CHROMIUM is None:
        print("  no Chromium on this machine: the first paint is not measured")
        return
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with running("demo", "--port", str(free_port()), environment=environment(state), file=Path(folder) / "output") as demo:
            demo.wait_for("Ctrl-C")
            url = demo.wait_for(r"API +(http://127\.0\.0\.1:\d+)")[1]
            link = demo.wait_for(r"Console +(http://127\.0\.0\.1:\d+/console/link/[\w-]+)\n")[1]
            asyncio.run(measure(url, link))
        remove_postgres_data(state)


if __name__ == "__main__":
    main()
