"""Read Twilio's list of calls, page by page."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from app.twilio.errors import TwilioListTooLong, TwilioOutcomeUnknown
from app.twilio.schemas import CallResource

PAGE_SIZE = 1000
MAX_PAGES = 10
MAX_PAGE_BYTES = 8 * 1024 * 1024
"""One call takes about 2 kB."""


async def read_call_list(
    get: Callable[[str], Awaitable[Any]],
    account_sid: str,
    filters: Mapping[str, str],
    *,
    keep: Callable[[Mapping[str, Any]], bool],
) -> list[CallResource]:
    """Reads all pages and returns the calls for which `keep` returns true. `get` returns the JSON of a path below the account.

    Raises TwilioListTooLong when the list has more than MAX_PAGES pages.
    """
    path = f"Calls.json?{urlencode({**filters, 'PageSize': PAGE_SIZE})}"
    found: list[CallResource] = []
    for _ in range(MAX_PAGES):
        page = await get(path)
        entries = page.get("calls") if isinstance(page, dict) else None
        if not isinstance(entries, list):
            raise TwilioOutcomeUnknown("unreadable_list")
        selected = (entry for entry in entries if not isinstance(entry, dict) or keep(entry))
        found += [resource for entry in selected if (resource := CallResource.read(entry))]
        following = page.get("next_page_uri")
        if not following:
            return found
        path = str(following).partition(f"/Accounts/{account_sid}/")[2]
    raise TwilioListTooLong
