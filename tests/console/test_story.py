"""The console over a real `callgate demo`, in a real Chromium: an operator finds a call, acts, and sets up a tenant.

No step may cause an error on the browser's console, a violation of the Content-Security-Policy or a request to another host.
`CALLGATE_SCREENSHOTS=FOLDER` keeps the pictures that the README shows, and each page in light, dark and on a phone.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from app.console.navigation import NAVIGATION
from app.local.postgres import remove_postgres_data
from tests.cli.running import Process, environment, free_port, running
from tests.proofs.receiver import Received, Receiver, receiving
from tests.support.accessibility import serious_violations_in
from tests.support.browser import BROWSER_MARKS, PageRecord, chromium
from tests.support.clients import http_client
from tests.support.node import CONSOLE_PROJECT, install_packages

pytestmark = BROWSER_MARKS

SCREENSHOTS = os.environ.get("CALLGATE_SCREENSHOTS")
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
TIMEOUT_MS = 60_000
expect.set_options(timeout=TIMEOUT_MS)


class Demo:
    """A demo that runs, and the operator's browser, which is logged in by the link that the demo prints."""

    def __init__(self, process: Process, state_dir: Path, context: BrowserContext, page: Page) -> None:
        self.url = process.wait_for(r"API +(http://127\.0\.0\.1:\d+)")[1]
        self.link = process.wait_for(r"Console +(http://127\.0\.0\.1:\d+/console/link/[\w-]+)\n")[1]
        self.sid = process.wait_for(r"CA[0-9a-f]{32}")[0]
        self.state_dir = state_dir
        self.context = context
        self.page = page
        self.seen = PageRecord(page)

    @property
    def http(self) -> httpx.AsyncClient:
        key = (self.state_dir / "demo_key").read_text().strip()
        return http_client(base_url=self.url, headers={"Authorization": f"Bearer {key}"})

    async def place(self, to: str, **members: object) -> str:
        """Places a call and returns the path of its page."""
        async with self.http as http:
            body = {"from": "Jack", "to": to, "url": "http://www.example.com/sipdial.xml"} | members
            answer = await http.post("/v1/calls", json=body)
        assert answer.status_code in (201, 202), answer.text
        return f"/console/calls/{answer.json()['id']}"

    async def open(self, path: str) -> Page:
        await self.page.goto(self.url + path)
        return self.page


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running_browser:
        yield running_browser


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("story") / "state"
    yield directory
    remove_postgres_data(directory)


@pytest.fixture(scope="module")
async def demo(browser: Browser, state_dir: Path) -> AsyncIterator[Demo]:
    port = free_port()
    settings = environment(state_dir, CALLGATE_PUBLIC_URL=f"http://127.0.0.1:{port}")  # the simulator calls it back
    with running("demo", "--port", str(port), environment=settings, file=state_dir.parent / "output") as process:
        process.wait_for("Ctrl-C")
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(TIMEOUT_MS)
        told = Demo(process, state_dir, context, await context.new_page())
        await told.page.goto(told.link)
        await told.page.wait_for_url(re.compile("/console/(now|calls)$"))
        yield told


def sentence(page: Page) -> Locator:
    return page.locator("#call .lead")


async def test_the_call_just_placed_is_found_and_read_to_its_price(demo: Demo) -> None:
    page = await demo.open("/console/calls")
    box = page.get_by_label("Number, SIP address, id, sid or key")
    await box.fill("sip:kate@example.com")
    await box.press("Enter")
    await expect(page.get_by_role("region", name="Calls").get_by_role("row")).to_have_count(2)
    await box.fill(demo.sid)
    await box.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("sip:k•••@example.com")
    await expect(sentence(page)).to_have_text(re.compile(r"^Rang once, answered, \d+ s, −0\.\d+ USD\.$"))
    titles = await page.locator("ol.timeline strong").all_inner_texts()
    # On a slow machine, a refresh may read a status before its callback has arrived.
    assert [title for title in titles if not title.startswith("Status: ")] == [
        "Sending to Twilio",
        "Started at Twilio",
        "Twilio reports: initiated",
        "Twilio reports: ringing",
        "Twilio reports: in-progress",
        "Twilio reports: completed",
        "Priced",
    ]
    assert "kate" not in await page.content()
    await picture(page, "call")
    await page.get_by_role("button", name="Reveal").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("sip:kate@example.com")
    await page.goto(f"{demo.url}/console/audit")
    await expect(page.get_by_role("region").get_by_role("row").nth(1)).to_contain_text("call revealed")


async def test_an_endless_call_is_ended(demo: Demo) -> None:
    page = await demo.open(await demo.place("sip:forever@example.com"))
    await expect(sentence(page)).to_contain_text("in progress")  # the page refreshes itself
    await page.locator("summary", has_text="End call").click()
    await page.get_by_role("button", name="Yes, end this call").click()
    await expect(sentence(page)).to_contain_text(re.compile("answered, .*s"))
    await expect(page.locator("h1 .badge")).to_have_text("completed")
    await expect(page.locator("summary", has_text="End call")).to_have_count(0)


async def test_a_delivery_is_sent_again(demo: Demo) -> None:
    async with receiving(Receiver(secrets={"demo": "unknown"})) as receiver:

        def deliveries() -> list[Received]:
            return [received for received in receiver.received if received.call_status == "busy"]

        page = await demo.open(await demo.place("sip:busy@example.com", status_callback=f"{receiver.url}/twilio/demo"))
        line = page.get_by_role("region", name="Deliveries").get_by_role("row").filter(has_text="completed")
        await expect(line).to_contain_text("delivered")
        assert len(deliveries()) == 1
        await line.get_by_role("button", name="Send again").click()
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            while len(deliveries()) == 1:
                await asyncio.sleep(0.05)
        await expect(line).to_contain_text("delivered")
    first, second = deliveries()
    assert first.webhook_id == second.webhook_id


async def test_a_queue_is_paused_and_resumed(demo: Demo) -> None:
    async with demo.http as http:
        assert (await http.put("/v1/queues/reminders", json={"pace": {"calls_per_second": 5}})).status_code in (200, 201)
    page = await demo.open("/console/queues")
    await page.get_by_role("link", name="reminders").click()
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("h1 .badge")).to_have_text("paused")
    async with demo.http as http:
        assert (await http.get("/v1/queues/reminders")).json()["paused"] is True
    waiting = await demo.place("sip:alice@example.com", queue="reminders")
    page = await demo.open(waiting)
    await expect(page.locator("h1 .badge")).to_have_text("scheduled")
    await demo.open("/console/queues")
    await page.get_by_role("link", name="reminders").click()
    await page.get_by_role("button", name="Resume").click()
    await demo.open(waiting)
    await expect(page.locator("h1 .badge")).not_to_have_text("scheduled")


async def test_a_tenant_is_created_and_places_a_call(demo: Demo) -> None:
    page = await demo.open("/console/tenants")
    await page.locator("summary", has_text="Create a tenant").click()
    await page.get_by_label("Id").fill("bakery")
    await page.get_by_label("Name").fill("The bakery")
    await page.get_by_role("button", name="Create").click()
    await page.get_by_label("Account SID").fill("AC" + "b" * 32)
    await page.get_by_label("Auth token").fill("b" * 32)
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.locator("#accounts ~ section")).to_contain_text("auth token")
    await page.locator("summary", has_text="Make an API key").click()
    await page.get_by_label("Name").last.fill("orders")
    await page.get_by_role("button", name="Make").click()
    key = await page.locator("#key").inner_text()
    async with http_client(base_url=demo.url, headers={"Authorization": f"Bearer {key}"}) as http:
        body = {"from": "Jack", "to": "sip:kate@example.com", "url": "http://www.example.com/sipdial.xml"}
        assert (await http.post("/v1/calls", json=body)).status_code == 201
    assert key not in (await (await demo.open("/console/tenants/bakery")).content())


async def test_now_tells_how_calls_go(demo: Demo) -> None:
    page = await demo.open("/console/now")
    await expect(page.locator("#summary .lead")).to_contain_text("Calls go out.")
    while SCREENSHOTS and "5 requested" not in await page.inner_text("main"):  # a minute is counted when it is over
        await asyncio.sleep(5)
        await page.reload()
    await picture(page, "now")


@pytest.mark.parametrize("look", LOOKS)
async def test_pages_with_data_are_accessible_and_fit_the_screen(demo: Demo, browser: Browser, look: str) -> None:
    install_packages(CONSOLE_PROJECT)
    async with demo.http as http:
        await http.put("/v1/queues/reminders", json={"pace": {"calls_per_second": 5}})
        (call, *_) = (await http.get("/v1/calls", params={"limit": 1})).json()["calls"]
    context = await browser.new_context(storage_state=await demo.context.storage_state(), **LOOKS[look])  # type: ignore[arg-type]
    page = await context.new_page()
    seen = PageRecord(page)
    findings = {}
    details = [f"/console/calls/{call['id']}", "/console/tenants/demo", "/console/queues/demo/reminders"]
    for path in [link.path for link in NAVIGATION] + details:
        await page.goto(demo.url + path)
        await page.get_by_role("heading", level=1).first.wait_for()
        too_wide = await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        findings[path] = await serious_violations_in(page) + (["wider than the screen"] if too_wide else [])
        await picture(
            page, f"{path.removeprefix('/console/').replace('/', '-').replace(call['id'], 'call')}-{look}", whole=True
        )
    await context.close()
    assert {path: found for path, found in findings.items() if found} == {}
    assert seen.hosts == {"127.0.0.1"}
    assert seen.errors == []


async def test_no_step_caused_an_error_or_left_this_host(demo: Demo) -> None:
    assert demo.seen.hosts == {"127.0.0.1"}
    assert demo.seen.errors == []


async def picture(page: Page, name: str, *, whole: bool = False) -> None:
    if SCREENSHOTS:
        await page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=whole)
