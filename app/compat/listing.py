"""Twilio's list of calls: ten filters whose operators are in their names, pages by token, and Twilio's envelope.

https://www.twilio.com/docs/voice/api/call-resource#read-multiple-call-resources. Dates in filters are days in UTC, whatever
time comes with them: `StartTime` on that day, `StartTime<` before it, `StartTime>` on it or later. Phone numbers are found
however they are written. A list by `ParentCallSid` is Twilio's own (`SubresourceService.child_legs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from app.calls import ids
from app.calls.phone_numbers import spellings
from app.compat.form import Fields, given_values
from app.compat.repository import Edge, Span, StartedFilter
from app.compat.resource import API_VERSION
from app.compat.service import Page
from app.errors import FieldError, InvalidRequest
from app.twilio.schemas import CALL_SID

MAX_PAGE_SIZE = 1000
_DEFAULT_PAGE_SIZE = 50
_LARGEST_PAGE = 10**9
_NEWER, _OLDER = "PB", "PA"
_TIMES = ("StartTime", "StartTime<", "StartTime>", "EndTime", "EndTime<", "EndTime>")
_FILTERS = ("To", "From", "ParentCallSid", "Status", *_TIMES)
_PAGING = ("PageSize", "Page", "PageToken")
PARAMETERS = (*_FILTERS, *_PAGING)
# `initiated` is a word of callbacks: the resource of such a call says `queued`.
_STATUSES: Mapping[str, tuple[str, ...]] = {
    "queued": ("queued", "initiated"),
    **{name: (name,) for name in ("ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled")},
}


@dataclass(frozen=True, slots=True)
class Listing:
    """One page that was asked for."""

    account_sid: str
    given: Mapping[str, str]
    """The filters, as they were written."""
    wanted: StartedFilter
    size: int
    number: int
    token: str | None
    edge: Edge | None

    def envelope(self, page: Page) -> dict[str, Any]:
        """What stands beside `calls`. No key beyond Twilio's: its SDKs take one that they do not know for the list."""
        call_ids, start = page.call_ids, self.number * self.size
        older = self._uri(self.number + 1, _OLDER + ids.cursor_of(call_ids[-1])) if page.has_older else None
        newer = self._uri(max(self.number - 1, 0), _NEWER + ids.cursor_of(call_ids[0])) if page.has_newer else None
        return {
            "end": start + max(len(call_ids) - 1, 0),
            "first_page_uri": self._uri(0),
            "next_page_uri": older,
            "page": self.number,
            "page_size": self.size,
            "previous_page_uri": newer,
            "start": start,
            "uri": self._uri(self.number, self.token),
        }

    def _uri(self, number: int, token: str | None = None) -> str:
        paging = {"PageSize": self.size, "Page": number} | ({"PageToken": token} if token else {})
        return f"/{API_VERSION}/Accounts/{self.account_sid}/Calls.json?{urlencode({**self.given, **paging})}"


def read_listing(account_sid: str, query: Fields) -> Listing:
    """Raises InvalidRequest; a misspelt filter is a fault: ignored, it would show more than was asked for."""
    several = given_values(query, PARAMETERS)
    faults = [FieldError(f"?{name}", "repeated", "must be given once") for name, values in several.items() if len(values) > 1]
    given = {name: values[0] for name, values in several.items()}
    # Twilio gave the token of a page of child legs.
    judged = {name: value for name, value in given.items() if name != "PageToken" or "ParentCallSid" not in given}
    faults += [fault for name, value in judged.items() if (fault := _fault(name, value))]
    if int(given.get("Page", 0) if not faults else 0) > 0 and "PageToken" not in given:
        text = "PageToken is required for paging: follow next_page_uri"
        faults.append(FieldError("?Page", "page_token_missing", text))
    if faults:
        raise InvalidRequest(field_errors=tuple(faults))
    wanted = StartedFilter(
        account_sid=account_sid,
        statuses=_STATUSES.get(given.get("Status", "")),
        to=spellings(given["To"]) if "To" in given else None,
        from_=spellings(given["From"]) if "From" in given else None,
        parent_call_sid=given.get("ParentCallSid"),
        started=_span(given, "StartTime"),
        ended=_span(given, "EndTime"),
    )
    return Listing(
        account_sid=account_sid,
        given={name: given[name] for name in _FILTERS if name in given},
        wanted=wanted,
        size=int(given.get("PageSize", _DEFAULT_PAGE_SIZE)),
        number=int(given.get("Page", 0)),
        token=given.get("PageToken"),
        edge=_edge(judged["PageToken"]) if "PageToken" in judged else None,
    )


def _fault(name: str, value: str) -> FieldError | None:
    wrong: dict[str, tuple[str, str, object]] = {
        "Status": ("unknown_status", "must be one of " + ", ".join(_STATUSES), value in _STATUSES),
        "ParentCallSid": ("not_a_call_sid", "must be CA and 32 hexadecimal digits", CALL_SID.fullmatch(value)),
        "PageSize": ("page_size", f"must be from 1 to {MAX_PAGE_SIZE}", _number(value, 1, MAX_PAGE_SIZE)),
        "Page": ("page", "must be a number", _number(value, 0, _LARGEST_PAGE)),
        "PageToken": ("page_token", "must be the token of an earlier page", _edge(value)),
    }
    if name in _TIMES:
        wrong[name] = ("not_a_date", "must be a date: YYYY-MM-DD", _day(value))
    code, detail, fine = wrong.get(name, ("null_character", "must not contain the NUL character", "\0" not in value))
    return None if fine else FieldError(f"?{name}", code, detail)


def _number(text: str, least: int, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most


def _edge(token: str) -> Edge | None:
    call_id = ids.read_cursor(token[2:])
    if call_id is None or token[:2] not in (_NEWER, _OLDER):
        return None
    return Edge("newer" if token.startswith(_NEWER) else "older", call_id)


def _span(given: Mapping[str, str], name: str) -> Span:
    """All three may be given; each has to hold."""
    on, before, from_ = (_day(given[key]) if key in given else None for key in (name, f"{name}<", f"{name}>"))
    since = [day for day in (on, from_) if day is not None]
    until = [day for day in (on and on + timedelta(days=1), before) if day is not None]
    return Span(max(since, default=None), min(until, default=None))


def _day(text: str) -> datetime | None:
    """The beginning of the day in UTC: `2026-11-23`, `2026-11-23T10:00:00Z`, and the older forms of Twilio's examples."""
    for read in (datetime.fromisoformat, _american, parsedate_to_datetime):
        try:
            moment = read(text)
            day = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            # Room for what is reckoned from it.
            return day.replace(hour=0, minute=0, second=0, microsecond=0) if 1970 <= day.year < 9999 else None
        except (ValueError, OverflowError):
            continue
    return None


def _american(text: str) -> datetime:
    return datetime.strptime(text[:10], "%m/%d/%Y").replace(tzinfo=UTC)
