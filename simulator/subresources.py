"""Simulates the subresources of a call, such as recordings, streams and payments.

Keeps only the state that is needed to test a client of Twilio. The JSON of each kind follows Twilio's page about it, such as
https://www.twilio.com/docs/voice/api/recording.
"""

import math
import operator
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from simulator.errors import TwilioError
from simulator.form import Form
from simulator.lifecycle import Status, progress_at
from simulator.listing import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, parse_day, parse_integer_parameter, require_page_token
from simulator.parameters import is_absolute_url, require_host_without_underscore, validate_methods, validate_urls
from simulator.resource import API_VERSION, format_rfc2822
from simulator.store import Call

_SAMPLE_RATE = 8000
_DAY_FILTERS = {"Recordings": ("DateCreated", "date_created"), "Notifications": ("MessageDate", "message_date")}
_DAY_COMPARISONS: Mapping[str, Callable[[date, date], bool]] = {"": operator.eq, "<": operator.lt, ">": operator.ge}


@dataclass(frozen=True, slots=True)
class SubresourceKind:
    """A kind of subresource. `segment` is its part of the path, such as `Recordings`.

    `status` is the HTTP status of the answer to a creation. `required` has the parameters that a creation must have.
    `update_statuses` has the values of `Status` that an update accepts.
    """

    segment: str
    sid_prefix: str
    needs_call_in_progress: bool = True
    status: int = 201
    required: tuple[str, ...] = ()
    update_statuses: tuple[str, ...] = ("stopped",)
    callback: str = "StatusCallback"
    """The name of the parameter with the URL to which callbacks go."""

    @property
    def snake_case_name(self) -> str:
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.segment).lstrip("_")


KINDS_BY_SEGMENT: Mapping[str, SubresourceKind] = {
    kind.segment: kind
    for kind in (
        SubresourceKind("Events", "", needs_call_in_progress=False),
        SubresourceKind("Notifications", "NO", needs_call_in_progress=False),
        SubresourceKind(
            "Recordings", "RE", update_statuses=("stopped", "paused", "in-progress"), callback="RecordingStatusCallback"
        ),
        SubresourceKind("Payments", "PK", required=("IdempotencyKey", "StatusCallback")),
        SubresourceKind("Transcriptions", "GT", status=200, callback="StatusCallbackUrl"),
        SubresourceKind("Siprec", "SR", status=200),
        SubresourceKind("Streams", "MZ", status=200, required=("Url",)),
        SubresourceKind("UserDefinedMessages", "KX", required=("Content",)),
        SubresourceKind("UserDefinedMessageSubscriptions", "ZY", required=("Callback",), callback="Callback"),
    )
}
_NAMED_KINDS = ("Transcriptions", "Siprec", "Streams")
_ACTIVE_STATUSES = ("in-progress", "paused")
_METHOD_PARAMETERS = ("RecordingStatusCallbackMethod", "StatusCallbackMethod", "Method")


@dataclass(slots=True)
class Subresource:
    call_sid: str
    name: str | None
    resource: dict[str, Any]


@dataclass
class SubresourceStore:
    """The subresources of all calls, by kind and in the order of creation.

    `new_sid` returns an unused sid that begins with the given letters.
    """

    new_sid: Callable[[str], str]
    _all: dict[str, dict[str, Subresource]] = field(default_factory=lambda: {segment: {} for segment in KINDS_BY_SEGMENT})
    _by_idempotency_key: dict[tuple[str, str, str], Subresource] = field(default_factory=dict)

    def clear(self) -> None:
        for items in self._all.values():
            items.clear()
        self._by_idempotency_key.clear()

    def create(self, kind: SubresourceKind, call: Call, form: Form, now: datetime) -> dict[str, Any]:
        """Creates a subresource and returns it as JSON. If the call has one with the same IdempotencyKey, returns that one.

        Raises TwilioError if a parameter is missing or invalid, or if the call is not in progress and the kind requires it.
        """
        for name in kind.required:
            if form.get(name) is None:
                raise TwilioError(20422, name)
        _validate_urls_and_methods(kind, form)
        _require_in_progress(kind, call, now)
        given = form.get("IdempotencyKey")
        known = self._by_idempotency_key.get((call.sid, kind.segment, given)) if given else None
        if known is None:
            known = self._add(kind, call, form, now)
            if given:
                self._by_idempotency_key[call.sid, kind.segment, given] = known
        return known.resource

    def add_created_by_twilio(
        self, kind: SubresourceKind, call: Call, fields: Mapping[str, Any], now: datetime
    ) -> dict[str, Any]:
        """Adds a subresource that only Twilio itself creates, such as a notification, so that a test can read it."""
        return self._add(kind, call, Form({}), now, fields).resource

    def find(self, kind: SubresourceKind, call: Call, sid: str, path: str) -> Subresource:
        """Returns the call's subresource of this kind whose sid or name is `sid`.

        If `sid` is `Twilio.CURRENT`, returns the newest one that is in progress or paused. Raises error 20404, with `path` in
        its message, if there is none.
        """
        for item in reversed(self._all[kind.segment].values()):
            current = sid == "Twilio.CURRENT" and item.resource.get("status") in _ACTIVE_STATUSES
            if item.call_sid == call.sid and (item.resource["sid"] == sid or item.name == sid or current):
                return item
        raise TwilioError(20404, path)

    def update(self, kind: SubresourceKind, call: Call, item: Subresource, form: Form, now: datetime) -> dict[str, Any]:
        _require_in_progress(kind, call, now)
        if kind.segment == "Payments":
            for name in kind.required:
                if form.get(name) is None:
                    raise TwilioError(20422, name)
            _validate_urls_and_methods(kind, form)
        else:
            status = form.get("Status")
            if status not in kind.update_statuses:
                raise TwilioError(20422, "Status")
            item.resource["status"] = status
        item.resource["date_updated"] = format_rfc2822(now)
        return item.resource

    def delete(self, kind: SubresourceKind, item: Subresource) -> None:
        del self._all[kind.segment][item.resource["sid"]]

    def render_page(
        self, kind: SubresourceKind, call: Call, query: QueryParams, extra: list[dict[str, Any]], path: str
    ) -> dict[str, Any]:
        """Returns a page of a call's subresources of one kind in Twilio's JSON, newest first.

        `extra` has entries that no request has created, such as the event of the call's creation. They come last. `path` is the
        path of the list, for the URIs of other pages.
        """
        size, number = parse_integer_parameter(query, "PageSize", DEFAULT_PAGE_SIZE), parse_integer_parameter(query, "Page", 0)
        require_page_token(query, number)
        if not 0 < size <= MAX_PAGE_SIZE:
            raise TwilioError(20007, str(MAX_PAGE_SIZE))
        found = [item.resource for item in reversed(self._all[kind.segment].values()) if item.call_sid == call.sid]
        found = [resource for resource in [*found, *extra] if _matches_filters(kind, query, resource)]
        shown = found[number * size : (number + 1) * size]
        filters = {name: value for name, value in query.items() if name not in ("Page", "PageSize", "PageToken")}

        def uri(page: int) -> str:
            token = {"PageToken": f"PA{page}"} if page else {}
            return f"{path}?{urlencode(filters | {'PageSize': size, 'Page': page} | token)}"

        return {
            kind.snake_case_name: shown,
            "end": number * size + max(len(shown) - 1, 0),
            "first_page_uri": uri(0),
            "next_page_uri": uri(number + 1) if len(found) > (number + 1) * size else None,
            "page": number,
            "page_size": size,
            "previous_page_uri": uri(number - 1) if number else None,
            "start": number * size,
            "uri": uri(number),
        }

    def find_recording(self, account_sid: str, sid: str, path: str) -> dict[str, Any]:
        """Returns the account's recording with this sid as a JSON object, whichever call it belongs to.

        Raises error 20404, with `path` in its message, if there is none.
        """
        item = self._all["Recordings"].get(sid)
        if item is None or item.resource["account_sid"] != account_sid:
            raise TwilioError(20404, path)
        return item.resource

    def _add(
        self, kind: SubresourceKind, call: Call, form: Form, now: datetime, fields: Mapping[str, Any] | None = None
    ) -> Subresource:
        sid = self.new_sid(kind.sid_prefix)
        uri = f"/{API_VERSION}/Accounts/{call.account_sid}/Calls/{call.sid}/{kind.segment}/{sid}.json"
        item = Subresource(call.sid, form.get("Name") if kind.segment in _NAMED_KINDS else None, {})
        item.resource = {"sid": sid, "account_sid": call.account_sid, "call_sid": call.sid} | _kind_specific_members(
            kind, form, format_rfc2822(now), uri
        )
        item.resource |= fields or {}
        self._all[kind.segment][sid] = item
        return item


def _kind_specific_members(kind: SubresourceKind, form: Form, now: str | None, uri: str) -> dict[str, Any]:
    if kind.segment in _NAMED_KINDS:
        return {"name": form.get("Name"), "status": "in-progress", "date_updated": now, "uri": uri}
    if kind.segment == "UserDefinedMessages":
        return {"date_created": now}
    if kind.segment == "UserDefinedMessageSubscriptions":
        return {"date_created": now, "uri": uri}
    if kind.segment == "Payments":
        return {"date_created": now, "date_updated": now, "uri": uri}
    dated = {"api_version": API_VERSION, "date_created": now, "date_updated": now, "uri": uri}
    if kind.segment == "Notifications":
        nothing = ("message_text", "more_info", "request_url", "request_variables", "response_body", "response_headers")
        return dated | dict.fromkeys(nothing, "") | {"error_code": "0", "log": "1", "message_date": now, "request_method": None}
    return dated | {
        "conference_sid": None,
        "channels": 2 if form.get("RecordingChannels") == "dual" else 1,
        "duration": None,
        "encryption_details": None,
        "error_code": None,
        "price": None,
        "price_unit": None,
        "source": "StartCallRecordingAPI",
        "start_time": now,
        "status": "in-progress",
        "track": form.get("RecordingTrack") or "both",
    }


def event_of_creation(call: Call) -> dict[str, Any]:
    """Returns the one event that every call has. It describes the request that created the call."""
    path = f"/{API_VERSION}/Accounts/{call.account_sid}/Calls.json"
    parameters = {"to": call.parameters.to, "from": call.parameters.from_}
    return {
        "request": {"method": "POST", "url": f"https://api.twilio.com{path}", "parameters": parameters},
        "response": {"response_code": 201, "request_duration": 50, "content_type": "application/json"},
    }


def wav_tone(seconds: float = 0.25) -> bytes:
    """Returns a WAV file with a tone (mono, 16 bits, 8000 samples a second)."""
    count = int(_SAMPLE_RATE * seconds)
    samples = struct.pack(f"<{count}h", *(int(8000 * math.sin(n / 3)) for n in range(count)))
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _SAMPLE_RATE, 2 * _SAMPLE_RATE, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def _validate_urls_and_methods(kind: SubresourceKind, form: Form) -> None:
    """Raises Twilio's error if a parameter has an invalid URL or HTTP method.

    Clients that are generated from Twilio's specification may send the placeholder `string` in place of a URL.
    """
    url = form.get("Url")
    if url is not None and not is_absolute_url(url, ("ws", "wss")):
        raise TwilioError(21205, url)
    validate_urls(form, (kind.callback,))
    # Among subresources, Twilio's specification forbids underscores only for subscriptions to user-defined messages.
    require_host_without_underscore(form, "Callback")
    validate_methods(form, _METHOD_PARAMETERS)


def _require_in_progress(kind: SubresourceKind, call: Call, now: datetime) -> None:
    """Raises error 21220 if this kind needs a call in progress and the call is not in progress."""
    if kind.needs_call_in_progress and progress_at(call.plan, now).status is not Status.IN_PROGRESS:
        raise TwilioError(21220)


def _matches_filters(kind: SubresourceKind, query: QueryParams, resource: dict[str, Any]) -> bool:
    if kind.segment == "Notifications" and query.get("Log") not in (None, resource["log"]):
        return False
    filtered = _DAY_FILTERS.get(kind.segment)
    if filtered is None:
        return True
    name, field_ = filtered
    day = parsedate_to_datetime(resource[field_]).date()
    return all(
        compare(day, parse_day(name, query[name + mark]))
        for mark, compare in _DAY_COMPARISONS.items()
        if query.get(name + mark)
    )
