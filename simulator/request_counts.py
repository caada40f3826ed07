"""Counts the requests to Twilio's Calls resource and to the paths below a call."""

import re
from collections import Counter

_CALLS_PATH_PATTERN = re.compile(
    r"/2010-04-01/Accounts/(?P<account>AC[0-9a-f]{32})/Calls(?P<call>/CA[0-9a-f]{32})?(?P<below>/.+)?"
)


class RequestCounts:
    """The numbers of requests by account sid, HTTP method and resource.

    The resource is `Calls` (the list), `Call`, or `below` for every path below a call.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def count_request(self, method: str, path: str) -> None:
        if found := _CALLS_PATH_PATTERN.fullmatch(path.removesuffix(".json")):
            what = "below" if found["below"] else "Call" if found["call"] else "Calls"
            self._counts[found["account"], method, what] += 1

    def request_counts_of(self, account_sid: str | None) -> dict[str, int]:
        """Returns the number of requests by method and resource (`GET Calls`); of all accounts if `account_sid` is None."""
        counts: Counter[str] = Counter()
        for (account, method, what), number in self._counts.items():
            if account_sid in (None, account):
                counts[f"{method} {what}"] += number
        return dict(counts)

    def clear(self) -> None:
        self._counts.clear()
