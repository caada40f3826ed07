"""Masks personal data in texts and in JSON. Some digits or letters stay visible, to distinguish calls.

In JSON, ids, times, numbers, booleans and nulls are shown. Addresses and URLs are shown in part. In messages, and in members
that normally have no personal data, such as `status`, only phone numbers and addresses are masked. Any other text is hidden.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from app.setting_values import TWILIO_API_VERSION

_MASK = "•••"
_MAX_SHOWN_DIGITS = 4
_ADDRESS_SCHEME_PATTERN = re.compile(r"sips?:|client:|tel:", re.IGNORECASE | re.ASCII)
_PHONE_NUMBER = re.compile(r"\+?[0-9()\-. ]{5,}")
_ADDRESS_WITH_SCHEME_PATTERN = r"(?<!\w)(?:sips?|client|tel):[^\s\"'<>,]+"
_EMAIL_LIKE = r"(?u:(?<![\w@])[\w.+%-]+(?:@|%40)[\w.-]+)"  # people have letters of all languages in their names
_NUMBER_IN_TEXT = r"(?<![\w.:-])(?:\+|%2B)?[0-9](?:[ ().-]{0,2}[0-9]){6,17}(?![\w:-])|(?<=:)\+?[0-9]{7,18}(?![\w:.-])"
_PERSONAL_DATA = re.compile(f"{_ADDRESS_WITH_SCHEME_PATTERN}|{_EMAIL_LIKE}|{_NUMBER_IN_TEXT}", re.IGNORECASE | re.ASCII)
_NUMBER_IN_KEY = re.compile(r"(?<![A-Za-z0-9])\+?[0-9]{7,15}(?![A-Za-z0-9])")
_ID_OR_TIME = re.compile(
    r"[A-Z]{2}[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d))?|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} (?:[+-]\d{4}|GMT)",
    re.ASCII,
)
# Longer texts are hidden completely: the search for personal data in them can take quadratic time.
_MAX_SEARCHED_LENGTH: Final = 500
_ADDRESS_MEMBERS: Final = frozenset(
    {"to", "from", "called", "caller", "toformatted", "fromformatted", "callerid", "callername", "forwardedfrom"}
)
# Names of members that normally have no personal data, in requests, events, callbacks and Twilio's Call resource. The names are
# in lower case, without `_`.
_SHOWN_MEMBERS: Final = frozenset(
    (
        *(
            "accountsid",
            "callsid",
            "groupsid",
            "parentcallsid",
            "phonenumbersid",
            "recordingsid",
            "sid",
            "trunksid",
            "redialof",
        ),
        *("status", "callstatus", "previous", "recordingstatus", "result", "execution", "settledby", "was", "by", "state"),
        *(
            "callgateevent",
            "callgateexecution",
            "callgateproblem",
            "callgatesettledby",
            "problem",
            "reason",
            "slug",
            "sqlstate",
        ),
        *("action", "event", "type", "method", "parameters", "credential", "twiliorequestid", "code", "pointer", "errorcode"),
        *("sequencenumber", "callbacksource", "timestamp", "sipresponsecode", "apiversion", "direction", "answeredby"),
        *("callduration", "duration", "recordingduration", "price", "priceunit", "queuetime", "timezone", "priority", "queue"),
        *("fallbackmethod", "statuscallbackmethod", "statuscallbackevent", "recordingstatuscallbackmethod", "on"),
        *("recordingstatuscallbackevent", "recordingchannels", "recordingtrack", "trim", "byoc", "sipcredential"),
        *("machinedetection", "asyncamd", "asyncamdstatuscallbackmethod", "applicationsid"),
    )
)


def mask_address(value: str | None) -> str:
    """Masks a phone number or an address, such as a SIP URI.

    A number keeps its last digits. An address keeps its scheme and its host; its user keeps the first letter or, if the user is
    a number, the last digits. Returns a dash for None and "".
    """
    if not value:
        return "–"
    found = _ADDRESS_SCHEME_PATTERN.match(value)
    scheme = found[0] if found else ""
    before, at, after = value[len(scheme) :].rpartition("@")
    if not at:
        return f"{scheme}{_mask_user(_text_before_any_character(after, ';?'))}"
    # The user may have parameters of its own, and a password (RFC 3261, section 25.1).
    return f"{scheme}{_mask_user(_text_before_any_character(before, ';:?@'))}@{_text_before_any_character(after, ';?')}"


def _text_before_any_character(text: str, ends: str) -> str:
    """Returns the part of the text before the first character that is in `ends`; the whole text if there is none."""
    return re.split(f"[{ends}]", text, maxsplit=1)[0]


def _mask_user(user: str) -> str:
    if _PHONE_NUMBER.fullmatch(user):
        digits = re.sub(r"\D", "", user)
        hidden = len(digits) - min(_MAX_SHOWN_DIGITS, len(digits) // 2)
        return f"{'+' if user.startswith('+') else ''}{_MASK}{digits[hidden:]}"
    return f"{user[:1]}{_MASK}"


def mask_text(text: str) -> str:
    """Masks the phone numbers, SIP addresses and e-mail addresses in a sentence. Hides a text of more than 500 characters."""
    if len(text) > _MAX_SEARCHED_LENGTH:
        return _mask_with_length(text)
    return _PERSONAL_DATA.sub(lambda found: mask_address(found[0].replace("%2B", "+").replace("%40", "@")), text)


def mask_idempotency_key(key: str) -> str:
    """Masks the addresses and phone numbers in an idempotency key. A key that is an id or a time is not masked."""
    return key if _ID_OR_TIME.fullmatch(key) else _NUMBER_IN_KEY.sub(lambda found: mask_address(found[0]), mask_text(key))


def mask_url(url: str) -> str:
    """Returns the URL without its user, password, query and fragment, which may contain personal data.

    Masks numbers and addresses in the path. Hides a path of more than 250 characters, and a text that is no http or https URL.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname and (parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}")
    except ValueError:
        return _mask_with_length(url)
    if not host or parts.scheme not in ("http", "https"):
        return _mask_with_length(url)
    more = f"?{_MASK}" if parts.query or parts.fragment else ""
    path = parts.path if len(parts.path) <= _MAX_SEARCHED_LENGTH // 2 else f"/{_MASK}"
    return mask_text(f"{parts.scheme}://{host}{path}{more}")


def mask_json(value: Any, name: str = "") -> Any:
    """Returns the JSON value with masks in place of texts that may contain personal data.

    `name` is the name of the JSON member with this value; "" if the value is no member. The name decides how a text is masked.
    """
    match value:
        case str():
            return _mask_member_text(value, name.replace("_", "").lower())
        case Mapping():
            return {key: mask_json(item, key) for key, item in value.items()}
        case list() | tuple():
            return [mask_json(item, name) for item in value]
    return value


def _mask_member_text(text: str, name: str) -> str:
    if _ID_OR_TIME.fullmatch(text) or not text:
        return text
    if name in _ADDRESS_MEMBERS:
        return mask_address(text)
    if name in _SHOWN_MEMBERS:
        return mask_text(text)
    if text.startswith(("http://", "https://")):
        return mask_url(text)
    if name in ("uri", "detail", "message", "moreinfo", "errormessage") or text.startswith(f"/{TWILIO_API_VERSION}/"):
        return mask_text(text)
    return _mask_with_length(text)


def _mask_with_length(text: str) -> str:
    """Returns dots and the length of the text, to show instead of a text that is hidden completely."""
    return f"{_MASK} ({len(text)} characters)"
