"""Reads the search box and the filters of the list of calls from the URL. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, get_args
from uuid import UUID

from app.callgate_error import EXECUTIONS
from app.calls import ids
from app.calls.phone_numbers import read_number, spellings
from app.calls.schemas import Status
from app.console.times import read_form_time
from app.errors import all_errors
from app.tenants.names import RESOURCE_NAME_PATTERN
from app.twilio.schemas import CALL_SID_PATTERN

SearchKind = Literal["id", "sid", "number", "to", "from", "key"]

STATUSES: Final[tuple[str, ...]] = get_args(Status.__value__)
STORED_PROBLEMS: Final = (
    "upstream-rejected",
    "upstream-credentials-rejected",
    "upstream-throttled",
    "upstream-unreachable",
    "none-found",
    "ring-by-passed",
    "canceled-before-dial",
    "database-unavailable",
)
"""The problems with which a creation can end, the most frequent first. The form suggests them, and takes other slugs."""
PROBLEM_SEARCH_SPAN = timedelta(days=7)
"""How far back a filter by problem looks without `since`. It is limited because no index contains the problems."""

_EARLIEST_END = datetime.min.replace(tzinfo=UTC) + PROBLEM_SEARCH_SPAN
_MAX_SEARCH_LENGTH = 2048
_UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CALL_ID_VERSION = 7  # ids of calls have it; UUIDs that clients use as idempotency keys are mostly random
_KEY_PATTERN = re.compile(r"[\x20-\x7e]{1,255}")
_TENANT_PATTERN = re.compile(r"[^\x00]{1,255}")
_SCHEME_PATTERN = re.compile(r"(sips?|client):.", re.IGNORECASE | re.DOTALL)
_PREFIX_PATTERN = re.compile(r"(to|from|key): ?(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Search:
    """What the text in the search box asks for: a kind of value, and the spellings of the value to look for."""

    kind: SearchKind
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CallQuery:
    """The filters of a page of calls.

    Calls match if they were requested at or after `since` and before `until`, and if their id is before the id `before`.
    """

    search: Search | None = None
    tenant: str | None = None
    queue: str | None = None
    execution: str | None = None
    status: str | None = None
    problem: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None

    def with_problem_span(self, *, now: datetime) -> "CallQuery":
        """Returns the query with a `since` if it filters by problem and has none; otherwise returns it unchanged.

        The added `since` is PROBLEM_SEARCH_SPAN before `until` or, without `until`, before `now`.
        """
        if self.problem is None or self.since is not None:
            return self
        until = max(self.until or now, _EARLIEST_END)
        return replace(self, since=until - PROBLEM_SEARCH_SPAN)


@dataclass(frozen=True, slots=True)
class CallForm:
    """The filters of the list of calls, as they were sent (`texts`) and as they were read (`query`).

    `errors` has error texts by field. If there are errors, `query` contains no filter, and the list must stay empty.
    """

    query: CallQuery
    texts: dict[str, str] = field(default_factory=dict)
    """The texts of the form's fields, by name, without empty ones."""
    errors: dict[str, str] = field(default_factory=dict)


def read_call_form(parameters: Iterable[tuple[str, str]]) -> CallForm:
    """Reads the parameters of the URL. Ignores empty ones. A parameter that is unknown, repeated or unreadable is an error."""
    texts: dict[str, str] = {}
    errors: dict[str, str] = {}
    for name, value in parameters:
        if name not in _FIELDS:
            errors["unknown"] = "The address has a filter that this page does not know."
        elif name in texts:
            errors[name] = "Given twice."
        elif value.strip():
            texts[name] = value
    values: dict[str, object] = {}
    for name, text in texts.items():
        member, read, fault = _FIELDS[name]
        values[member] = read(text)
        if values[member] is None:
            errors.setdefault(name, fault)
    query = CallQuery() if errors else CallQuery(**values)  # type: ignore[arg-type]  # each reader returns its member's type
    return CallForm(query, texts, errors)


def read_search(text: str) -> Search | None:
    """Returns what to search for: an id, a sid, an address or a key, depending on the form of the text.

    A prefix `to:`, `from:` or `key:` overrides this. Returns None if the text has none of these forms.
    """
    if len(text) > _MAX_SEARCH_LENGTH or "\x00" in text:
        return None
    # A `+` that is not encoded arrives as a space.
    text = f"+{text.strip()}" if re.match(r" [0-9]", text) else text.strip()
    if explicit := _PREFIX_PATTERN.fullmatch(text):
        return _prefixed_search(explicit[1], explicit[2])
    if _UUID_PATTERN.fullmatch(text):
        own = UUID(text)
        return Search("id", (str(own),)) if own.version == _CALL_ID_VERSION else Search("key", (text,))
    if CALL_SID_PATTERN.fullmatch(text):
        return Search("sid", (text,))
    if _SCHEME_PATTERN.match(text):
        return Search("to", (text,))
    if text.startswith("+") or read_number(text):
        return Search("number", spellings(text))
    if "@" in text and not re.search(r"\s", text):
        return Search("to", (f"sip:{text}", f"sips:{text}"))
    return Search("key", (text,)) if _KEY_PATTERN.fullmatch(text) else None


def _prefixed_search(name: str, text: str) -> Search | None:
    """Returns the search for `text`, which followed the prefix `name` (to, from or key); None if it cannot be a key."""
    if name == "key":
        return Search("key", (text,)) if _KEY_PATTERN.fullmatch(text) else None
    return Search("to" if name == "to" else "from", spellings(text) if read_number(text) else (text,))


def _read_time(text: str) -> datetime | None:
    try:
        return read_form_time(text.strip())
    except ValueError:
        return None


def _one_of(known: tuple[str, ...]) -> Callable[[str], str | None]:
    """Returns a function that returns its argument if it is one of the known texts, and None otherwise."""
    return lambda text: text if text in known else None


def _read_problem(text: str) -> str | None:
    slug = text.strip()
    return slug if slug in all_errors() else None


def _read_queue(text: str) -> str | None:
    name = text.strip()
    return name if re.fullmatch(RESOURCE_NAME_PATTERN, name) else None


def _read_tenant(text: str) -> str | None:
    return text.strip() if _TENANT_PATTERN.fullmatch(text) else None


# By name of a parameter: the member of CallQuery, what reads the value, and what to say if it cannot be read.
_FIELDS: Final[Mapping[str, tuple[str, Callable[[str], object], str]]] = {
    "q": ("search", read_search, "Type a number, a SIP address, an id, a sid, or `key:` and an idempotency key."),
    "tenant": ("tenant", _read_tenant, "Type the id of a tenant."),
    "queue": ("queue", _read_queue, "Type the name of a queue: letters, digits and `._-`."),
    "execution": ("execution", _one_of(EXECUTIONS), "Choose one of the list."),
    "status": ("status", _one_of(STATUSES), "Choose one of the list."),
    "problem": ("problem", _read_problem, "No problem has this name. The page on errors lists them."),
    "since": ("since", _read_time, "Type a time in UTC, such as 2026-11-28T09:30."),
    "until": ("until", _read_time, "Type a time in UTC, such as 2026-11-28T09:30."),
    "cursor": ("before", ids.read_cursor, "The page's place in the list cannot be read. Start with the newest calls."),
}
