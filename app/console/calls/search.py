"""Reads the search box and the filters of the list of calls from the URL."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, get_args
from uuid import UUID

from app.callgate_error import EXECUTIONS
from app.calls import ids
from app.calls.phone_numbers import parse_phone_number, stored_address_variants
from app.calls.schemas import Status
from app.console.times import read_form_time
from app.errors import error_classes_by_slug
from app.http.idempotency_key_rules import IDEMPOTENCY_KEY_CHARACTER, MAX_IDEMPOTENCY_KEY_LENGTH
from app.tenants.names import RESOURCE_NAME_PATTERN
from app.twilio.schemas import CALL_SID_PATTERN

SearchKind = Literal["id", "sid", "number", "to", "from", "key"]

STATUS_CHOICES: Final[tuple[str, ...]] = get_args(Status.__value__)
CREATION_PROBLEM_SLUGS: Final = (
    "upstream-rejected",
    "upstream-credentials-rejected",
    "upstream-throttled",
    "upstream-unreachable",
    "none-found",
    "ring-by-passed",
    "canceled-before-dial",
    "database-unavailable",
)
"""The slugs of the problems with which the creation of a call can end, the most frequent first.

The form suggests these slugs for the filter by problem. It accepts other slugs, too.
"""
PROBLEM_SEARCH_SPAN = timedelta(days=7)
"""How far back in time a filter by problem looks if `since` is not set.

The time is limited because no index contains the problems.
"""

_MIN_UNTIL = datetime.min.replace(tzinfo=UTC) + PROBLEM_SEARCH_SPAN
_MAX_SEARCH_LENGTH = 2048
_UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CALL_ID_UUID_VERSION = 7  # ids of calls have it; UUIDs that clients use as idempotency keys are mostly random
_KEY_PATTERN = re.compile(f"{IDEMPOTENCY_KEY_CHARACTER}{{1,{MAX_IDEMPOTENCY_KEY_LENGTH}}}")
_TENANT_PATTERN = re.compile(r"[^\x00]{1,255}")
_SCHEME_PATTERN = re.compile(r"(sips?|client):.", re.IGNORECASE | re.ASCII | re.DOTALL)
_PREFIX_PATTERN = re.compile(r"(to|from|key): ?(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CallSearch:
    """What the text in the search box asks for.

    `kind` says what the text is, such as an id or a phone number. `values` are the values to look for in the database: there
    are several if a phone number may be stored in several formats.
    """

    kind: SearchKind
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CallListFilters:
    """The filters of a page of the list of calls. A filter that is None does not apply.

    A matching call was requested at `since` or later, and before `until`. Its id is smaller than `before`, the id of the last
    call on the previous page.
    """

    search: CallSearch | None = None
    tenant: str | None = None
    queue: str | None = None
    execution: str | None = None
    status: str | None = None
    problem: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None

    def with_default_since(self, *, now: datetime) -> "CallListFilters":
        """Returns a copy with a default for `since` if the query has a `problem` and no `since`; otherwise the query itself.

        The default is the time PROBLEM_SEARCH_SPAN before `until` or, if `until` is None, before `now`.
        """
        if self.problem is None or self.since is not None:
            return self
        until = max(self.until or now, _MIN_UNTIL)
        return replace(self, since=until - PROBLEM_SEARCH_SPAN)


@dataclass(frozen=True, slots=True)
class CallListFilterForm:
    """The filters of the list of calls, as they were sent (`texts`) and as they were read (`query`).

    `errors` has error texts by field. If there are errors, `query` contains no filter and would match all calls, so the page
    must list no call.
    """

    query: CallListFilters
    texts: dict[str, str] = field(default_factory=dict)
    """The texts of the form's fields by the name of the field. Empty texts are left out."""
    errors: dict[str, str] = field(default_factory=dict)


def parse_call_list_form(parameters: Iterable[tuple[str, str]]) -> CallListFilterForm:
    """Reads the URL's parameters, which are pairs of name and value, into a form. Ignores parameters with an empty value.

    A parameter that is unknown, repeated or unreadable adds an error text to the form.
    """
    texts: dict[str, str] = {}
    errors: dict[str, str] = {}
    for name, value in parameters:
        if name not in _PARSERS_BY_PARAMETER:
            errors["unknown"] = "The address has a filter that this page does not know."
        elif name in texts:
            errors[name] = "Given twice."
        elif value.strip():
            texts[name] = value
    values: dict[str, object] = {}
    for name, text in texts.items():
        attribute, read, fault = _PARSERS_BY_PARAMETER[name]
        values[attribute] = read(text)
        if values[attribute] is None:
            errors.setdefault(name, fault)
    query = CallListFilters() if errors else CallListFilters(**values)  # type: ignore[arg-type]  # each reader returns its field's type
    return CallListFilterForm(query, texts, errors)


def parse_search(text: str) -> CallSearch | None:
    """Returns what the text in the search box asks for; None if it cannot be read.

    The form of the text decides whether the text is an id, a sid, a phone number, a SIP address or an idempotency key. If the
    text begins with `to:`, `from:` or `key:`, this prefix decides instead.
    """
    if len(text) > _MAX_SEARCH_LENGTH or "\x00" in text:
        return None
    # A `+` that is not encoded arrives as a space.
    text = f"+{text.strip()}" if re.match(r" [0-9]", text) else text.strip()
    if explicit := _PREFIX_PATTERN.fullmatch(text):
        return _prefixed_search(explicit[1], explicit[2])
    if _UUID_PATTERN.fullmatch(text):
        own = UUID(text)
        return CallSearch("id", (str(own),)) if own.version == _CALL_ID_UUID_VERSION else CallSearch("key", (text,))
    if CALL_SID_PATTERN.fullmatch(text):
        return CallSearch("sid", (text,))
    if _SCHEME_PATTERN.match(text):
        return CallSearch("to", (text,))
    if text.startswith("+") or parse_phone_number(text):
        return CallSearch("number", stored_address_variants(text))
    if "@" in text and not re.search(r"\s", text):
        return CallSearch("to", (f"sip:{text}", f"sips:{text}"))
    return CallSearch("key", (text,)) if _KEY_PATTERN.fullmatch(text) else None


def _prefixed_search(name: str, text: str) -> CallSearch | None:
    """Returns the search for an input of the form `name:text`. `name` is "to", "from" or "key".

    Returns None if `name` is "key" and `text` cannot be an idempotency key.
    """
    if name == "key":
        return CallSearch("key", (text,)) if _KEY_PATTERN.fullmatch(text) else None
    return CallSearch("to" if name == "to" else "from", stored_address_variants(text) if parse_phone_number(text) else (text,))


def _parse_time(text: str) -> datetime | None:
    try:
        return read_form_time(text.strip())
    except ValueError:
        return None


def _parser_of_known_values(known: tuple[str, ...]) -> Callable[[str], str | None]:
    """Returns a function that returns its argument if it is one of the known texts, and None otherwise."""
    return lambda text: text if text in known else None


def _parse_problem_slug(text: str) -> str | None:
    slug = text.strip()
    return slug if slug in error_classes_by_slug() else None


def _parse_queue_name(text: str) -> str | None:
    name = text.strip()
    return name if re.fullmatch(RESOURCE_NAME_PATTERN, name) else None


def _parse_tenant_id(text: str) -> str | None:
    return text.strip() if _TENANT_PATTERN.fullmatch(text) else None


# By the name of a parameter: the field of CallListFilters, the function that reads the value, and the error text if it returns
# None.
_PARSERS_BY_PARAMETER: Final[Mapping[str, tuple[str, Callable[[str], object], str]]] = {
    "q": ("search", parse_search, "Type a number, a SIP address, an id, a sid, or `key:` and an idempotency key."),
    "tenant": ("tenant", _parse_tenant_id, "Type the id of a tenant."),
    "queue": ("queue", _parse_queue_name, "Type the name of a queue: letters, digits and `._-`."),
    "execution": ("execution", _parser_of_known_values(EXECUTIONS), "Choose one of the list."),
    "status": ("status", _parser_of_known_values(STATUS_CHOICES), "Choose one of the list."),
    "problem": ("problem", _parse_problem_slug, "No problem has this name. The page on errors lists them."),
    "since": ("since", _parse_time, "Type a time in UTC, such as 2026-11-28T09:30."),
    "until": ("until", _parse_time, "Type a time in UTC, such as 2026-11-28T09:30."),
    "cursor": ("before", ids.decode_call_cursor, "The page's place in the list cannot be read. Start with the newest calls."),
}
