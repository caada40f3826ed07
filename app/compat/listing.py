"""Parses the query of Twilio's call list, and writes the members of the response that describe the page.

https://www.twilio.com/docs/voice/api/call-resource#read-multiple-call-resources. A date in a filter means a whole day in UTC,
even if it has a time: `StartTime` is on that day, `StartTime<` before it, `StartTime>` on it or later. Phone numbers match in
any notation. A list that is filtered by `ParentCallSid` is answered by Twilio instead (`SubresourceService.list_child_calls`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from app.calls import ids
from app.calls.phone_numbers import stored_address_variants
from app.compat.form import known_non_empty_values
from app.compat.repository import PageCursor, StartedCallFilter, TimeRange
from app.compat.service import CallIdPage
from app.errors import FieldError, InvalidRequest
from app.http.form import ParameterValues
from app.twilio.call_uris import account_uri
from app.twilio.schemas import CALL_SID_PATTERN

MAX_PAGE_SIZE = 1000
_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_NUMBER = 10**9
_NEWER_TOKEN_PREFIX, _OLDER_TOKEN_PREFIX = "PB", "PA"
_TIME_FILTERS = ("StartTime", "StartTime<", "StartTime>", "EndTime", "EndTime<", "EndTime>")
_FILTERS = ("To", "From", "ParentCallSid", "Status", *_TIME_FILTERS)
_PAGING_PARAMETER_NAMES = ("PageSize", "Page", "PageToken")
LIST_PARAMETERS = (*_FILTERS, *_PAGING_PARAMETER_NAMES)
# Only callbacks have the status `initiated`: Twilio's Call resource shows `queued` for it.
_STORED_STATUSES_BY_FILTER: Mapping[str, tuple[str, ...]] = {
    "queued": ("queued", "initiated"),
    **{name: (name,) for name in ("ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled")},
}


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The parsed query of a request for one page of the call list."""

    account_sid: str
    raw_filters: Mapping[str, str]
    """The filters as the client wrote them. The URIs of other pages repeat these filters."""
    filters: StartedCallFilter
    page_size: int
    page_number: int
    page_token: str | None
    cursor: PageCursor | None

    def paging_members(self, page: CallIdPage) -> dict[str, Any]:
        """Returns all members of the response except `calls`, with Twilio's names.

        Adds no member that Twilio's list lacks: Twilio's SDKs would take an unknown member for the list of calls.
        """
        call_ids, start = page.call_ids, self.page_number * self.page_size
        older = (
            self._page_uri(self.page_number + 1, _OLDER_TOKEN_PREFIX + ids.encode_call_cursor(call_ids[-1]))
            if page.has_older
            else None
        )
        newer = (
            self._page_uri(max(self.page_number - 1, 0), _NEWER_TOKEN_PREFIX + ids.encode_call_cursor(call_ids[0]))
            if page.has_newer
            else None
        )
        return {
            "end": start + max(len(call_ids) - 1, 0),
            "first_page_uri": self._page_uri(0),
            "next_page_uri": older,
            "page": self.page_number,
            "page_size": self.page_size,
            "previous_page_uri": newer,
            "start": start,
            "uri": self._page_uri(self.page_number, self.page_token),
        }

    def _page_uri(self, page_number: int, token: str | None = None) -> str:
        paging = {"PageSize": self.page_size, "Page": page_number} | ({"PageToken": token} if token else {})
        return f"{account_uri(self.account_sid)}/Calls.json?{urlencode({**self.raw_filters, **paging})}"


def parse_list_query(account_sid: str, query: ParameterValues) -> ListQuery:
    """Parses the query of Twilio's call list. Raises InvalidRequest for invalid values and for unknown names.

    If a misspelt filter were ignored, the list would contain calls that the filter should exclude.
    """
    given = known_non_empty_values(query, LIST_PARAMETERS)
    errors = [FieldError(f"?{name}", "repeated", "must be given once") for name, values in given.items() if len(values) > 1]
    written = {name: values[0] for name, values in given.items()}
    # Twilio answers a list by `ParentCallSid`, so its page token is Twilio's, and Callgate does not check it.
    checked = {name: value for name, value in written.items() if name != "PageToken" or "ParentCallSid" not in written}
    errors += [error for name, value in checked.items() if (error := _parameter_value_error(name, value))]
    if int(written.get("Page", 0) if not errors else 0) > 0 and "PageToken" not in written:
        text = "PageToken is required for paging: follow next_page_uri"
        errors.append(FieldError("?Page", "page_token_missing", text))
    if errors:
        raise InvalidRequest(field_errors=tuple(errors))
    filters = StartedCallFilter(
        account_sid=account_sid,
        statuses=_STORED_STATUSES_BY_FILTER.get(written.get("Status", "")),
        to=stored_address_variants(written["To"]) if "To" in written else None,
        from_=stored_address_variants(written["From"]) if "From" in written else None,
        parent_call_sid=written.get("ParentCallSid"),
        started=_time_range(written, "StartTime"),
        ended=_time_range(written, "EndTime"),
    )
    return ListQuery(
        account_sid=account_sid,
        raw_filters={name: written[name] for name in _FILTERS if name in written},
        filters=filters,
        page_size=int(written.get("PageSize", _DEFAULT_PAGE_SIZE)),
        page_number=int(written.get("Page", 0)),
        page_token=written.get("PageToken"),
        cursor=_read_page_token(checked["PageToken"]) if "PageToken" in checked else None,
    )


def _parameter_value_error(name: str, value: str) -> FieldError | None:
    wrong: dict[str, tuple[str, str, object]] = {
        "Status": (
            "unknown_status",
            "must be one of " + ", ".join(_STORED_STATUSES_BY_FILTER),
            value in _STORED_STATUSES_BY_FILTER,
        ),
        "ParentCallSid": ("not_a_call_sid", "must be CA and 32 hexadecimal digits", CALL_SID_PATTERN.fullmatch(value)),
        "PageSize": ("page_size", f"must be from 1 to {MAX_PAGE_SIZE}", _is_number_within(value, 1, MAX_PAGE_SIZE)),
        "Page": ("page", "must be a number", _is_number_within(value, 0, _MAX_PAGE_NUMBER)),
        "PageToken": ("page_token", "must be the token of an earlier page", _read_page_token(value)),
    }
    if name in _TIME_FILTERS:
        wrong[name] = ("not_a_date", "must be a date: YYYY-MM-DD", _start_of_day(value))
    code, detail, is_valid = wrong.get(name, ("null_character", "must not contain the NUL character", "\0" not in value))
    return None if is_valid else FieldError(f"?{name}", code, detail)


def _is_number_within(text: str, minimum: int, maximum: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12 and minimum <= int(text) <= maximum


def _read_page_token(token: str) -> PageCursor | None:
    """Returns the cursor that a page token contains; None if Callgate did not make the token."""
    call_id = ids.decode_call_cursor(token[2:])
    if call_id is None or token[:2] not in (_NEWER_TOKEN_PREFIX, _OLDER_TOKEN_PREFIX):
        return None
    return PageCursor("newer" if token.startswith(_NEWER_TOKEN_PREFIX) else "older", call_id)


def _time_range(written: Mapping[str, str], name: str) -> TimeRange:
    """Returns the range that the three filters `name`, `name<` and `name>` (such as `StartTime>`) allow together.

    `written` maps the names of the query parameters to their text.
    """
    on, before, from_ = (_start_of_day(written[key]) if key in written else None for key in (name, f"{name}<", f"{name}>"))
    since = [day for day in (on, from_) if day is not None]
    until = [day for day in (on and on + timedelta(days=1), before) if day is not None]
    return TimeRange(max(since, default=None), min(until, default=None))


def _start_of_day(text: str) -> datetime | None:
    """Returns the start of the day in UTC, or None if the text is not a date.

    Takes ISO 8601 (`2026-11-23`, `2026-11-23T10:00:00Z`) and the older formats of Twilio's examples.
    """
    for read in (datetime.fromisoformat, _parse_us_date, parsedate_to_datetime):
        try:
            moment = read(text)
            day = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
            # Years at the limits of datetime would overflow in later arithmetic.
            return day.replace(hour=0, minute=0, second=0, microsecond=0) if 1970 <= day.year < 9999 else None
        except (ValueError, OverflowError):
            continue
    return None


def _parse_us_date(text: str) -> datetime:
    return datetime.strptime(text[:10], "%m/%d/%Y").replace(tzinfo=UTC)
