"""Reads Twilio's list of calls, page by page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from app.twilio.errors import TwilioListTooLong, TwilioOutcomeUnknown
from app.twilio.schemas import CallResource

CALL_LIST_PAGE_SIZE = 1000
MAX_PAGES = 10
MAX_PAGE_BYTES = 8 * 1024 * 1024
"""The maximum size of one page of the list. One call takes about 2 kB; with the longest SIP addresses, 7 kB."""


def parse_call_page(document: Any) -> Mapping[str, Any]:
    """Returns a page of the list of calls. Raises TwilioOutcomeUnknown if the document has no list of calls."""
    if not isinstance(document, dict) or not isinstance(document.get("calls"), list):
        raise TwilioOutcomeUnknown("unreadable_list")
    return document


async def read_call_pages(
    fetch_page: Callable[[str], Awaitable[Mapping[str, Any]]], account_sid: str, filters: Mapping[str, str]
) -> AsyncIterator[list[Mapping[str, Any]]]:
    """Yields the calls in Twilio's list, page by page, as Twilio's JSON. `filters` are query parameters of the list.

    `fetch_page` fetches and parses the page at a path relative to the account's URL.
    """
    path = f"Calls.json?{urlencode({**filters, 'PageSize': CALL_LIST_PAGE_SIZE})}"
    while True:
        page = await fetch_page(path)
        yield [entry for entry in page["calls"] if isinstance(entry, dict)]
        following = page.get("next_page_uri")
        if not following:
            return
        path = str(following).partition(f"/Accounts/{account_sid}/")[2]


async def read_call_list(
    pages: AsyncIterator[list[Mapping[str, Any]]], *, keep: Callable[[Mapping[str, Any]], bool]
) -> list[CallResource]:
    """Reads all pages and returns the calls for which `keep` returns true.

    Raises TwilioListTooLong when the list has more than MAX_PAGES pages.
    """
    found: list[CallResource] = []
    count = 0
    async for entries in pages:
        if count == MAX_PAGES:
            raise TwilioListTooLong
        count += 1
        found += [resource for entry in entries if keep(entry) and (resource := CallResource.parse_answer(entry))]
    return found
