"""Looks for violations of WCAG 2.2 AA in a page, with axe-core."""

from typing import Any

from playwright.async_api import Page

from tests.support import node

_AXE = node.CONSOLE_PROJECT / "node_modules" / "axe-core" / "axe.min.js"
_RULES = "['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']"
_RUN = f"async () => (await axe.run(document, {{runOnly: {_RULES}}})).violations"
_SERIOUS = ("serious", "critical")


async def serious_violations_in(page: Page) -> list[str]:
    """Returns the serious violations, each with its elements.

    Needs axe-core, which `node.install_packages(node.CONSOLE_PROJECT)` installs.
    """
    await page.evaluate(_AXE.read_text())
    found: list[dict[str, Any]] = await page.evaluate(_RUN)
    return [
        f"{violation['id']}: {violation['help']}: {[element['html'][:160] for element in violation['nodes'][:5]]}"
        for violation in found
        if violation["impact"] in _SERIOUS
    ]
