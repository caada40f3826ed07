"""Explains why a text does not match the grammar of SIP URIs, and finds its valid parts."""

import re
from typing import Final

from app.sip import grammar
from app.sip.escapes import HEADER_IN_VALUE_PATTERN
from app.sip.findings import AUTHENTICATION_ADVICE, HEADER_IN_VALUE_ADVICE, HEADER_NAME_ADVICE, FindingReport
from app.sip.grammar import PartName

_PARTS_IN_ORDER: Final = ("scheme", "user", "password", "host", "port", "parameters", "headers")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*+:")  # RFC 3986 §3.1
_CONTROL = re.compile(r"[\x00-\x1f\x7f]++")
_NON_ASCII = re.compile(r"[^\x00-\x7f]++")
_USER = re.compile(grammar.USER, re.ASCII)
_PASSWORD = re.compile(grammar.PASSWORD, re.ASCII)
_HOST = re.compile(grammar.HOST, re.ASCII)
_PORT = re.compile(grammar.PORT, re.ASCII)
_PARAM = re.compile(grammar.PARAM, re.ASCII)
_HEADER = re.compile(grammar.HEADER, re.ASCII)
_ADDRESS_END = re.compile(r"[;?]|\Z")

_ADVICE_BY_SCHEME: Final = {
    "tel": "Give a phone number without tel:, or a SIP address that starts with sip:.",
    "client": "Give a SIP address, which starts with sip:; client: names a Twilio Client.",
    "http": "Give a SIP address, which starts with sip:; this is a web address.",
    "https": "Give a SIP address, which starts with sip:; this is a web address.",
    "mailto": "Give a SIP address, which starts with sip:; this is a mail address.",
}


class ValidParts:
    """The valid parts of a text that does not match `SIP_URI`. Implements `UriParts`."""

    def __init__(self) -> None:
        self._found: dict[PartName, tuple[str, int]] = {}

    def add(self, part: PartName, text: str, start: int) -> None:
        self._found[part] = text, start

    def groups(self) -> tuple[str | None, ...]:
        return tuple(self._found[part][0] if part in self._found else None for part in _PARTS_IN_ORDER)

    def start(self, part: PartName, /) -> int:
        return self.span(part)[0]

    def span(self, part: PartName, /) -> tuple[int, int]:
        text, start = self._found.get(part, ("", -1))
        return start, start + len(text)


def _illegal_character_pattern(characters: str) -> re.Pattern[str]:
    """Returns a pattern that matches printable ASCII outside the allowed `characters`, and "%" without two hex digits."""
    return re.compile(rf"[^{characters}%\x00-\x1f\x7f-\U0010ffff]++|%(?![0-9A-Fa-f]{{2}})", re.ASCII)


_ILLEGAL_IN_USER = _illegal_character_pattern(grammar.USER_CHARACTERS)
_ILLEGAL_IN_PARAM = _illegal_character_pattern(grammar.PARAM_CHARACTERS)
_ILLEGAL_IN_HEADER = _illegal_character_pattern(grammar.HEADER_CHARACTERS)


def diagnose_syntax(text: str, report: FindingReport) -> ValidParts:
    """Reports the errors of `text`, which does not match `SIP_URI`, and returns its valid parts.

    A part that matches its grammar rule is returned. Any other part gets an error.
    """
    valid_parts = ValidParts()
    if not text:
        report.add("EMPTY", 0, 0, "Give an address, as in sip:user@example.com.")
        return valid_parts
    _diagnose_raw_characters(text, report)
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[0].lower() not in ("sip:", "sips:"):
        _diagnose_scheme(text, scheme, report)
        return valid_parts
    valid_parts.add("scheme", scheme[0][:-1], 0)
    start = scheme.end()
    at = text.find("@", start)
    if at >= 0:
        _diagnose_userinfo(text[start:at], start, valid_parts, report)
        start = at + 1
    end = _end_of_host_and_port(text, start)
    _diagnose_host_and_port(text[start:end], start, valid_parts, report)
    question = text.find("?", end)
    parameters_end = len(text) if question < 0 else question
    _diagnose_parameters(text[end:parameters_end], end, valid_parts, report)
    if question >= 0:
        _diagnose_headers(text[question + 1 :], question + 1, valid_parts, report)
    if not report.has_error:
        # The text is outside the grammar, so it is refused even if no check above found the reason.
        report.add("BAD_SYNTAX", 0, len(text), "Write the address as in sip:user@example.com:5060;transport=tcp?X-A=1.")
    return valid_parts


def _end_of_host_and_port(text: str, start: int) -> int:
    """Returns the index at which the host and port that begin at `start` end: the first `;` or `?`, or the end of the text."""
    found = _ADDRESS_END.search(text, start)
    return found.start() if found else len(text)


def _diagnose_raw_characters(text: str, report: FindingReport) -> None:
    """Reports control and non-ASCII characters, which no part of a URI may contain."""
    for run in _CONTROL.finditer(text):
        detail = "Remove this control character (line end, tab, NUL or the like)."
        report.add("CONTROL_CHAR", run.start(), run.end(), detail)
        if report.is_closed:
            return
    if text.isascii():
        return
    for run in _NON_ASCII.finditer(text):
        detail = "Use ASCII only: a host in its xn-- form, other text as % escapes of its UTF-8."
        report.add("NON_ASCII", run.start(), run.end(), detail)
        if report.is_closed:
            return


def _diagnose_scheme(text: str, scheme: re.Match[str] | None, report: FindingReport) -> None:
    if text[0].isspace():
        detail = "Remove the white space before the address."
        return report.add("BAD_SCHEME", 0, len(text) - len(text.lstrip()), detail)
    if "<" in text and "sip" in text[:20].lower():
        detail = "Give the address alone, without a name and without < and >."
        return report.add("BAD_SCHEME", 0, text.index("<") + 1, detail)
    end = scheme.end() if scheme else 0
    name = scheme[0][:-1].lower() if scheme else ""
    detail = _ADVICE_BY_SCHEME.get(name, "Start the address with sip:, as in sip:user@example.com.")
    return report.add("BAD_SCHEME", 0, end, detail)


def _diagnose_userinfo(userinfo: str, start: int, valid_parts: ValidParts, report: FindingReport) -> None:
    user, colon, password = userinfo.partition(":")
    if _USER.fullmatch(user):
        valid_parts.add("user", user, start)
    elif not user:
        report.add("BAD_USER", start, start + 1, "Put a user before the @, or leave out the @.")
    else:
        hint = "Escape what is not a letter, a digit or one of -_.!~*'()&=+$,;?/ in the user, as in %23 for #."
        _report_illegal_characters(_ILLEGAL_IN_USER, user, start, "BAD_USER", hint, report)
    if not colon:
        return
    start += len(user) + 1
    if _PASSWORD.fullmatch(password):
        valid_parts.add("password", password, start)
    else:
        report.add("BAD_PASSWORD", start - 1, start + len(password), AUTHENTICATION_ADVICE)


def _diagnose_host_and_port(address: str, start: int, valid_parts: ValidParts, report: FindingReport) -> None:
    if address.startswith("["):
        bracket = address.find("]")
        host = address if bracket < 0 else address[: bracket + 1]
    else:
        host = address.partition(":")[0]
    rest = address[len(host) :]
    end = start + len(host)
    if not rest or (rest[0] == ":" and _PORT.fullmatch(rest, 1)):
        _diagnose_host(host, start, valid_parts, report)
        if rest:
            valid_parts.add("port", rest[1:], end + 1)
    elif rest.count(":") > 1 and not re.search(r"[^0-9A-Fa-f:.]", address):
        detail = "Put an IPv6 address in brackets, as in sip:user@[2001:db8::1], and give one port at most."
        report.add("BAD_HOST", start, start + len(address), detail)
    else:
        _diagnose_host(host, start, valid_parts, report)
        if rest[0] == ":":
            detail = "Give the port as digits after one colon, or leave out the colon."
            report.add("BAD_PORT", end, end + len(rest), detail)
        else:
            detail = "Put a colon between the ] and the port, and nothing else before the parameters."
            report.add("BAD_SYNTAX", end, end + len(rest), detail)


def _diagnose_host(host: str, start: int, valid_parts: ValidParts, report: FindingReport) -> None:
    if _HOST.fullmatch(host):
        valid_parts.add("host", host, start)
    else:
        report.add("BAD_HOST", start, start + len(host), _advice_on_invalid_host(host))


def _advice_on_invalid_host(host: str) -> str:
    """Returns advice on how to correct a host that is not valid."""
    if not host:
        return "Name the host to call, as in sip:user@example.com."
    if host[0] == "[":
        return "Give a whole IPv6 address between the brackets, without a zone, as in [2001:db8::1]."
    if "%" in host:
        return "Write the host without % escapes."
    if "@" in host or "\\" in host:
        return "Write an @ in the user as %40: the host starts after the only @."
    if host[0].isspace() or host[-1].isspace():
        return "Remove the white space around the host."
    if not re.search(r"[^A-Za-z0-9.\-]", host):
        last = host.removesuffix(".").rpartition(".")[2]
        if ".." in host or host[0] == ".":
            return "Write one dot between the host's labels, and none before the first."
        if last[:1].isdigit():
            return "Give four numbers from 0 to 255 without leading zeros, or a name whose last label starts with a letter."
        return "Start and end each label of the host with a letter or a digit."
    return "Use letters, digits, hyphens and dots in the host; parameters start with ; and headers with ?."


def _diagnose_parameters(parameters: str, start: int, valid_parts: ValidParts, report: FindingReport) -> None:
    is_valid = True
    end = start
    for item in parameters[1:].split(";") if parameters else ():
        begin = end + 1
        end = begin + len(item)
        if _PARAM.fullmatch(item):
            continue
        is_valid = False
        name, equals, value = item.partition("=")
        if not name:
            detail = "Name a parameter after each ;, as in ;transport=tls, or leave out the ;."
            report.add("BAD_PARAM", begin - 1, end, detail)
        elif equals and not value:
            report.add("BAD_PARAM", begin, end, "Give the parameter a value, or leave out its =.")
        else:
            hint = "Escape what is not a letter, a digit or one of -_.!~*'()[]/:&+$ in a parameter, as in %2C for a comma."
            _report_illegal_characters(_ILLEGAL_IN_PARAM, name, begin, "BAD_PARAM", hint, report)
            _report_illegal_characters(_ILLEGAL_IN_PARAM, value, begin + len(name) + 1, "BAD_PARAM", hint, report)
        if report.is_closed:
            return
    if is_valid:
        valid_parts.add("parameters", parameters, start)


def _diagnose_headers(headers: str, start: int, valid_parts: ValidParts, report: FindingReport) -> None:
    is_valid = True
    end = start - 1
    for item in headers.split("&"):
        begin = end + 1
        end = begin + len(item)
        if _HEADER.fullmatch(item):
            continue
        is_valid = False
        name, equals, value = item.partition("=")
        if not item:
            detail = "Put a header after the ? and after each &, as in ?X-Name=value, or leave out the sign."
            report.add("BAD_HEADER", begin - 1, end, detail)
        elif not equals:
            detail = "Give the header a value after =; write an & that belongs to a value as %26, and an = as %3D."
            report.add("BAD_HEADER", begin, end, detail)
        elif not name:
            report.add("BAD_HEADER_NAME", begin, end, "Name the header before its =.")
        if equals:
            _report_illegal_characters(_ILLEGAL_IN_HEADER, name, begin, "BAD_HEADER_NAME", HEADER_NAME_ADVICE, report)
            _diagnose_header_value(value, begin + len(name) + 1, report)
        if report.is_closed:
            return
    if is_valid:
        valid_parts.add("headers", headers, start)


def _diagnose_header_value(value: str, start: int, report: FindingReport) -> None:
    if (found := HEADER_IN_VALUE_PATTERN.search(value)) and "=" in value:
        report.add("BAD_HEADER", start + found.start(), start + found.end(), HEADER_IN_VALUE_ADVICE)
    else:
        hint = "Escape what is not a letter, a digit or one of -_.!~*'()[]/?:+$ in a header, as in %3B for a semicolon."
        _report_illegal_characters(_ILLEGAL_IN_HEADER, value, start, "BAD_HEADER", hint, report)


def _report_illegal_characters(
    illegal: re.Pattern[str], part: str, start: int, code: str, hint: str, report: FindingReport
) -> None:
    """Reports what the pattern `illegal` matches in `part`, which begins at `start` in the URI. `hint` says how to correct it.

    The pattern must not match control and non-ASCII characters, because `_diagnose_raw_characters` reports these.
    """
    for run in illegal.finditer(part):
        if run[0] == "%":
            detail = "Write % as %25, or give it two hexadecimal digits."
            report.add("BAD_ESCAPE", start + run.start(), start + run.end(), detail)
        else:
            report.add(code, start + run.start(), start + run.end(), hint)
        if report.is_closed:
            return
