"""Lists calls as Twilio does: with ten filters, with pages by token, and with Twilio's JSON around the calls.

Dates in filters are days in UTC, as in the specification; a time of day is ignored. A call that was not dialled yet has no
start time, so no StartTime filter matches it.
"""

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from operator import attrgetter
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from simulator.destination import PHONE_CHARACTERS_PATTERN
from simulator.display_rules import DisplayRules
from simulator.errors import TwilioError
from simulator.lifecycle import CallProgress, Status
from simulator.list_faults import ListRequestFaults
from simulator.resource import API_VERSION, render_call_resource
from simulator.store import Call, CallStore

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
NEXT_PAGE_TOKEN_PREFIX, PREVIOUS_PAGE_TOKEN_PREFIX = "PA", "PB"
"""The first two letters of a page token: of a next page, and of a previous page. After them, the token has a call's sid.

The next page begins after this call in the list. The previous page ends before it.
"""

ListedCall = tuple[Call, datetime]
"""A call, and the time for which its state is shown."""

TEXT_FILTERS = ("Status", "To", "From", "ParentCallSid")
GET_START_TIME, GET_END_TIME = attrgetter("start_time"), attrgetter("end_time")
DATE_FILTERS: dict[str, tuple[Callable[[CallProgress], datetime | None], Callable[[date, date], bool]]] = {
    "StartTime": (GET_START_TIME, operator.eq),
    "StartTime<": (GET_START_TIME, operator.lt),
    "StartTime>": (GET_START_TIME, operator.ge),
    "EndTime": (GET_END_TIME, operator.eq),
    "EndTime<": (GET_END_TIME, operator.lt),
    "EndTime>": (GET_END_TIME, operator.ge),
}


@dataclass(frozen=True, slots=True)
class CallFilters:
    text_by_filter: dict[str, str]
    day_by_filter: dict[str, date]

    @classmethod
    def parse(cls, query: QueryParams) -> "CallFilters":
        texts = {name: query[name] for name in TEXT_FILTERS if query.get(name)}
        if "Status" in texts and texts["Status"] not in list(Status):
            raise TwilioError(20422, "Status")
        return cls(texts, {name: parse_day(name, query[name]) for name in DATE_FILTERS if query.get(name)})

    def __bool__(self) -> bool:
        return bool(self.text_by_filter or self.day_by_filter)

    def matches(self, call: Call, progress: CallProgress, rules: DisplayRules) -> bool:
        to, from_ = call.parameters.to, call.parameters.from_
        if rules.filter_by == "shown":
            to, from_ = rules.to_as_shown(to), rules.from_as_shown(from_)
        compared = {"Status": progress.status, "To": to, "From": from_, "ParentCallSid": None}
        return all(_matches_text(compared[name], text) for name, text in self.text_by_filter.items()) and all(
            self._matches_day(name, day, progress, rules) for name, day in self.day_by_filter.items()
        )

    def _matches_day(self, name: str, day: date, progress: CallProgress, rules: DisplayRules) -> bool:
        moment_of, compare = DATE_FILTERS[name]
        moment = moment_of(progress)
        return moment is not None and compare(rules.to_twilio_time(moment).date(), day)


def _matches_text(shown: str | None, wanted: str) -> bool:
    """Returns whether the value `shown` of a call matches the value `wanted` of a filter.

    A wanted phone number may have punctuation, and may lack its `+` (unescaped, it arrives as a space) or the prefix `+1`.
    """
    if shown is None or not PHONE_CHARACTERS_PATTERN.fullmatch(wanted):
        return shown == wanted
    digits = re.sub(r"[^0-9]", "", wanted)
    return shown in (wanted, f"+{digits}", f"+1{digits}")


def render_call_page(
    calls: CallStore, account_sid: str, query: QueryParams, faults: ListRequestFaults, rules: DisplayRules
) -> bytes:
    """Returns the JSON of a page of the account's calls, newest first, with the faults of this request.

    Raises TwilioError if a filter or a paging parameter in `query` is invalid.
    """
    filters = CallFilters.parse(query)
    page_size = parse_integer_parameter(query, "PageSize", DEFAULT_PAGE_SIZE)
    if page_size > MAX_PAGE_SIZE:
        raise TwilioError(20007, str(MAX_PAGE_SIZE))
    if page_size == 0:
        raise TwilioError(20422, "PageSize")
    page = parse_integer_parameter(query, "Page", 0)
    require_page_token(query, page)
    token = query.get("PageToken", "")

    def matching(candidates: Iterable[Call]) -> Iterator[ListedCall]:
        for call in candidates:
            moment = faults.time_of_shown_state(call)
            if moment is not None and (not filters or filters.matches(call, call.stage_at(moment).progress, rules)):
                yield call, moment

    edge = _call_of_page_token(calls, account_sid, token)
    if faults.has_moving_pages:
        found, has_previous, has_next = _page_by_number(matching(calls.newest_first(account_sid)), page, page_size)
    else:
        found, has_previous, has_next = _page_by_token(calls, account_sid, matching, edge, token, page_size)

    path = f"/{API_VERSION}/Accounts/{account_sid}/Calls.json"
    wanted = {name: query[name] for name in (*TEXT_FILTERS, *DATE_FILTERS) if query.get(name)}

    def uri(number: int, page_token: str = "") -> str:
        paging = {"PageSize": page_size, "Page": number} | ({"PageToken": page_token} if page_token else {})
        return f"{path}?{urlencode(wanted | paging)}"

    envelope = {
        "end": page * page_size + max(len(found) - 1, 0),
        "first_page_uri": uri(0),
        "next_page_uri": uri(page + 1, NEXT_PAGE_TOKEN_PREFIX + found[-1][0].sid) if has_next else None,
        "page": page,
        "page_size": page_size,
        "previous_page_uri": uri(max(page - 1, 0), PREVIOUS_PAGE_TOKEN_PREFIX + found[0][0].sid) if has_previous else None,
        "start": page * page_size,
        "uri": uri(page, token),
    }
    entries = b",".join(render_call_resource(call, moment, rules) for call, moment in found)
    return b'{"calls":[%b],%b' % (entries, json.dumps(envelope, separators=(",", ":"))[1:].encode())


def _call_of_page_token(calls: CallStore, account_sid: str, token: str) -> Call | None:
    """Returns the call that a page token names; None without a token. Raises error 20422 for an invalid token."""
    if not token:
        return None
    edge = calls.get(account_sid, token[2:])
    if edge is None or token[:2] not in (NEXT_PAGE_TOKEN_PREFIX, PREVIOUS_PAGE_TOKEN_PREFIX):
        raise TwilioError(20422, "PageToken")
    return edge


def _page_by_token(
    calls: CallStore,
    account_sid: str,
    matching: Callable[[Iterable[Call]], Iterator[ListedCall]],
    token_call: Call | None,
    token: str,
    page_size: int,
) -> tuple[list[ListedCall], bool, bool]:
    """Returns the calls of a page, whether there is a page before this page, and whether there is one after it.

    `token_call` is the call that `token` names. The page begins after this call. With the token of a previous page, it ends
    before this call. Without a token, returns the first page. `matching` yields those of the given calls that the filters
    select.
    """
    if token_call is not None and token.startswith(PREVIOUS_PAGE_TOKEN_PREFIX):
        found = list(islice(matching(calls.oldest_first(account_sid, after=token_call)), page_size + 1))
        return found[:page_size][::-1], len(found) > page_size, bool(found)
    found = list(islice(matching(calls.newest_first(account_sid, before=token_call)), page_size + 1))
    return found[:page_size], token_call is not None and bool(found), len(found) > page_size


def _page_by_number(matching: Iterator[ListedCall], page: int, page_size: int) -> tuple[list[ListedCall], bool, bool]:
    """Returns the calls of page `page` (from 0), whether there is a page before it, and whether there is one after it.

    `matching` yields the calls that the filters select, newest first. Pages are counted from the newest call at the time of the
    request, so calls move between pages.
    """
    found = list(islice(matching, page * page_size, (page + 1) * page_size + 1))
    return found[:page_size], page > 0 and bool(found), len(found) > page_size


def parse_integer_parameter(query: QueryParams, name: str, default: int) -> int:
    text = query.get(name) or str(default)
    if not (text.isascii() and text.isdecimal()):
        raise TwilioError(20422, name)
    return int(text)


def require_page_token(query: QueryParams, page: int) -> None:
    """Raises Twilio's error 20001 if a page after the first is requested without PageToken.

    https://github.com/twilio/twilio-python/issues/395 shows the error.
    """
    if page and not query.get("PageToken"):
        raise TwilioError(20001)


def parse_day(name: str, text: str) -> date:
    """Returns the day in UTC that the text of a filter stands for. Raises error 20422 if the text is not a date.

    The text is like `2026-11-23`, `2026-11-23T10:00:00Z` or, as in examples of Twilio's specification, `11/23/2026 …`.
    """
    try:
        if "/" in text:
            return datetime.strptime(text[:10], "%m/%d/%Y").date()  # noqa: DTZ007 - a day, the zone is UTC
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC).date() if moment.tzinfo else moment.date()
    except (ValueError, OverflowError):
        raise TwilioError(20422, name) from None
