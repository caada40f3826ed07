"""The links at the top of every page of the console."""

from dataclasses import dataclass
from typing import Final

from app.http.operations import CONSOLE_PREFIX


@dataclass(frozen=True, slots=True)
class NavigationLink:
    """A link at the top of the console's pages. If `for_operators` is true, only operators see the link."""

    label: str
    path: str
    for_operators: bool = False

    def contains(self, path: str) -> bool:
        """Returns whether `path` is the path of the linked page, or of a page below the linked page."""
        return path == self.path or path.startswith(f"{self.path}/")


# The pages show the links in this order.
NAVIGATION: Final[tuple[NavigationLink, ...]] = (
    NavigationLink("Now", f"{CONSOLE_PREFIX}/now"),
    NavigationLink("Calls", f"{CONSOLE_PREFIX}/calls"),
    NavigationLink("Queues", f"{CONSOLE_PREFIX}/queues"),
    NavigationLink("Deliveries", f"{CONSOLE_PREFIX}/deliveries"),
    NavigationLink("Tenants", f"{CONSOLE_PREFIX}/tenants"),
    NavigationLink("Audit", f"{CONSOLE_PREFIX}/audit"),
    NavigationLink("SIP check", f"{CONSOLE_PREFIX}/sip"),
)
SESSION_LINK: Final = NavigationLink("Session", f"{CONSOLE_PREFIX}/session")


def section_link_for_path(path: str) -> NavigationLink:
    """Returns the navigation's link that contains the path; the first link if none contains it."""
    return next((link for link in NAVIGATION if link.contains(path)), NAVIGATION[0])


def home_path() -> str:
    """Returns the path of the console's start page, which is the first page in the navigation."""
    return next((link.path for link in NAVIGATION), SESSION_LINK.path)
