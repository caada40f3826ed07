"""Tests the console in a real Chromium: every way to log in, and each page in light and dark colours and on a phone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, Page

from app.audit.events import command_actor
from app.console.access import SESSION_COOKIE_NAME
from app.console.navigation import NAVIGATION
from app.console.sessions.service import add_login_link
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.scopes import Scope
from tests.console.test_oidc import SingleSignOn, issuer, redirect_port, single_sign_on
from tests.support import node
from tests.support.accessibility import serious_violations_in
from tests.support.browser import BROWSER_MARKS, PageRecord, chromium
from tests.support.gateway import Gateway, Tenant

__all__ = ["issuer", "redirect_port", "single_sign_on"]

pytestmark = BROWSER_MARKS

SCREENS = {
    "desktop-light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2},
    "4k": {"viewport": {"width": 3840, "height": 2160}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def packages() -> None:
    node.install_packages(node.CONSOLE_PROJECT)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@dataclass
class Tab:
    page: Page
    seen: PageRecord

    async def log_in(self, gateway: Gateway, tenant_id: str | None = None, path: str = "/console") -> None:
        _, key = await gateway.tenants.create_key(tenant_id, name=None, creator=COMMAND_LINE_CALLER, scopes=tuple(Scope))
        await self.page.goto(gateway.url + path)
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.get_by_role("button", name="Log out").wait_for()

    def require_clean(self) -> None:
        """Asserts that no page had an error, violated the Content-Security-Policy, or sent a request to another host."""
        assert self.seen.errors == []
        assert self.seen.hosts == {"127.0.0.1"}


@pytest.fixture
async def tab(browser: Browser) -> AsyncIterator[Tab]:
    context = await browser.new_context(**SCREENS["desktop-light"])  # type: ignore[arg-type]
    page = await context.new_page()
    yield Tab(page, PageRecord(page))
    await context.close()


async def test_a_key_logs_in_comes_back_to_the_page_and_logs_out(gateway: Gateway, tab: Tab) -> None:
    await tab.log_in(gateway, path="/console/session?from=mail")
    assert tab.page.url == f"{gateway.url}/console/session?from=mail"
    # Scripts cannot read the cookie.
    assert await tab.page.evaluate("document.cookie") == ""
    (cookie,) = await tab.page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (
        SESSION_COOKIE_NAME,
        True,
        True,
        "Strict",
    )
    await tab.page.get_by_role("button", name="Log out").click()
    await tab.page.get_by_label("API key").wait_for()
    assert await tab.page.context.cookies() == []
    await tab.page.goto(f"{gateway.url}/console/session")
    assert "/console/login" in tab.page.url
    tab.require_clean()


async def test_the_login_works_without_script(gateway: Gateway, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    tab = Tab(page, PageRecord(page))
    await tab.log_in(gateway)
    link = await add_login_link(gateway.database, command_actor())
    await page.get_by_role("button", name="Log out").click()
    await page.goto(f"{gateway.url}/console/link/{link}")
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("button", name="Log out").wait_for()
    await context.close()
    tab.require_clean()


async def test_a_link_logs_in_at_once_and_never_again(gateway: Gateway, tab: Tab, browser: Browser) -> None:
    link = await add_login_link(gateway.database, command_actor())
    await tab.page.goto(f"{gateway.url}/console/link/{link}")
    await tab.page.get_by_role("button", name="Log out").wait_for()
    tab.require_clean()
    other = await browser.new_page()
    await other.goto(f"{gateway.url}/console/link/{link}")
    await other.get_by_text("used before").wait_for()
    await other.close()


async def test_single_sign_on_ends_on_the_page_that_was_wanted(single_sign_on: SingleSignOn, tab: Tab) -> None:
    await tab.page.goto(f"{single_sign_on.gateway.url}/console/session?a=b")
    await tab.page.get_by_role("link", name="single sign-on").click()
    await tab.page.get_by_role("button", name="Log out").wait_for()
    assert tab.page.url == f"{single_sign_on.gateway.url}/console/session?a=b"
    await tab.page.get_by_text("kate@example.com").first.wait_for()
    tab.require_clean()


async def test_a_login_is_possible_with_the_keyboard_alone(gateway: Gateway, tab: Tab) -> None:
    _, key = await gateway.tenants.create_key(None, name=None, creator=COMMAND_LINE_CALLER, scopes=tuple(Scope))
    page = tab.page
    await page.goto(f"{gateway.url}/console/session")
    # The field has the focus.
    await page.keyboard.type(key)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Session").wait_for()
    # The first stop leads past the navigation, and it can be seen.
    await page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    assert await skip.evaluate("link => document.activeElement === link && link.getBoundingClientRect().left >= 0")
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "content"
    # Back to the top: the last stop before the page's own ones is the button that logs out, with a visible focus.
    await page.keyboard.press("Shift+Tab")
    logout = page.get_by_role("button", name="Log out")
    assert await logout.evaluate("button => document.activeElement === button")
    assert await logout.evaluate("button => getComputedStyle(button).outlineStyle !== 'none'")
    await page.keyboard.press("Enter")
    await page.get_by_label("API key").wait_for()
    tab.require_clean()


async def test_a_form_of_another_site_is_refused(gateway: Gateway, tab: Tab) -> None:
    await tab.log_in(gateway)
    # Another port is another origin, but the same site: a Strict cookie is sent there.
    other = await tab.page.context.new_page()
    await other.route("http://127.0.0.1:1/", lambda route: route.fulfill(content_type="text/html", body=FORGED_FORM))
    await other.goto("http://127.0.0.1:1/")
    await other.evaluate("action => { document.forms[0].action = action; }", f"{gateway.url}/console/logout")
    async with other.expect_navigation():
        await other.get_by_role("button").click()
    await other.get_by_text("does not come from the console").wait_for()
    await tab.page.goto(f"{gateway.url}/console/session")
    await tab.page.get_by_role("heading", name="Session").wait_for()


async def test_a_link_on_another_site_opens_the_page_with_the_session(gateway: Gateway, tab: Tab, browser: Browser) -> None:
    target, page = f"{gateway.url}/console/session?from=chat", tab.page

    async def click_the_link() -> None:
        await page.route("http://localhost:1/", lambda route: route.fulfill(content_type="text/html", body=link))
        await page.goto("http://localhost:1/")
        await page.get_by_role("link").click()

    link = f'<a href="{target}">Look</a>'
    await click_the_link()
    await page.get_by_label("API key").wait_for()
    await tab.log_in(gateway)
    await click_the_link()
    await page.get_by_role("heading", name="Session").wait_for()
    assert page.url == target
    # The pages on the way are not in the history.
    await page.go_back()
    assert page.url == "http://localhost:1/"


FORGED_FORM = "<form method=post><button>Win</button></form>"


async def test_times_are_shown_in_the_zone_of_the_browser_with_utc_on_hover(gateway: Gateway, browser: Browser) -> None:
    context = await browser.new_context(timezone_id="Asia/Kathmandu", locale="en-GB")
    page = await context.new_page()
    tab = Tab(page, PageRecord(page))
    await tab.log_in(gateway, path="/console/session")
    time = page.locator("time").first
    shown, title = await time.inner_text(), await time.get_attribute("title")
    assert title
    assert title.endswith(" UTC")
    # Kathmandu is 5 h 45 min ahead of UTC.
    minutes = [int(text.split(":")[-2]) for text in (shown, title)]
    assert (minutes[0] - minutes[1]) % 60 == 45
    await context.close()


PAGES = ["/console/login", "/console/session", "/console/nothing", *(link.path for link in NAVIGATION)]


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("screen", SCREENS)
async def test_every_page_is_accessible_and_fits(gateway: Gateway, tenant: Tenant, browser: Browser, screen: str) -> None:
    """Checks that axe-core finds no serious fault, that no page has an error, and that no page is wider than the screen."""
    (await tenant.create()).raise_for_status()
    context = await browser.new_context(**SCREENS[screen], reduced_motion="reduce")  # type: ignore[arg-type]
    page = await context.new_page()
    tab = Tab(page, PageRecord(page))
    await tab.log_in(gateway)
    findings = {}
    for path in PAGES:
        await page.goto(gateway.url + path)
        await page.get_by_role("heading", level=1).first.wait_for()
        too_wide = await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        found = await serious_violations_in(page) + (["wider than the screen"] if too_wide else [])
        if found:
            findings[path] = found
    await context.close()
    assert findings == {}
    assert tab.seen.hosts == {"127.0.0.1"}
    assert [error for error in tab.seen.errors if "404" not in error] == []
