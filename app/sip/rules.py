"""Checks the parts of a URI that match the grammar, by the rules of RFC 3261 and of Twilio.

A new finding also needs its code in `findings.py` and a row in docs/sip.md (docs/adding.md).
"""

import re
from collections.abc import Mapping
from itertools import permutations, product
from typing import Final

from app.sip.escapes import HEADER_IN_VALUE_PATTERN, NameValuePairs, check_escapes, decode_name_value_list, unescape
from app.sip.findings import AUTHENTICATION_ADVICE, HEADER_IN_VALUE_ADVICE, HEADER_NAME_ADVICE, FindingReport, shorten_name
from app.sip.grammar import HEADER_CHARACTERS, UriParts
from app.sip.header_names import HEADERS_DROPPED_BY_TWILIO, HEADERS_PASSED_BY_TWILIO, is_passed_x_header

ValuesByName = Mapping[str, str | None]
"""The decoded values of uri-parameters, by lower-case name."""

TRANSPORTS: Final = ("udp", "tcp", "tls")
# https://www.twilio.com/docs/global-infrastructure/edge-locations: public ones, then those of Twilio Interconnect.
EDGES: Final = (
    *("ashburn", "dublin", "frankfurt", "san-jose", "sao-paulo", "singapore", "sydney", "tokyo", "umatilla"),
    *("ashburn-ix", "frankfurt-ix", "london-ix", "san-jose-ix", "sao-paulo-ix", "singapore-ix", "sydney-ix", "tokyo-ix"),
)
REGIONS: Final = ("au1", "br1", "de1", "ie1", "jp1", "sg1", "us1", "us2")
HEADER_COUNT_TO_WARN: Final = 20  # Twilio refuses "too many" (13251) and gives no number.

_PARAM_CHOICES = {"transport": TRANSPORTS, "secure": ("true", "false"), "edge": EDGES}

# A fast path for most addresses: one lookup or one match. The rules below have no findings for these values, which tests
# verify.
USER_WITHOUT_FINDINGS_PATTERN: Final = re.compile(r"[A-Za-z0-9\-_.!~*'()&+$,]*+", re.ASCII)
PARAMS_WITHOUT_FINDINGS_BY_TEXT: Final[dict[str, tuple[NameValuePairs, ValuesByName]]] = {
    "".join(f";{name}={value}" for name, value in zip(names, values, strict=True)): (
        tuple(zip(names, values, strict=True)),
        dict(zip(names, values, strict=True)),
    )
    for size in range(1, len(_PARAM_CHOICES) + 1)
    for names in permutations(_PARAM_CHOICES, size)
    for values in product(*(_PARAM_CHOICES[name] for name in names))
}
_HEADER_CHARACTERS_WITHOUT_PLUS = HEADER_CHARACTERS.replace("+", "")
HEADERS_WITHOUT_FINDINGS_PATTERN: Final = re.compile(
    r"(?:\A|&)([xX]-(?![tT][wW])[A-Za-z0-9\-]*+)"
    # A value without "+", whose escapes decode to printable ASCII other than "%" and "&". A space was "%20" before.
    rf"=((?:[ {_HEADER_CHARACTERS_WITHOUT_PLUS}]++|%(?:2[0-47-9A-Fa-f]|[3-6][0-9A-Fa-f]|7[0-9A-Ea-e]))*+)(?![^&])",
    re.ASCII,
)

_ROUTING_PARAMS = frozenset({"transport", "secure", "edge", "region", "tnx"})
_PARAMS_WITH_RULES = _ROUTING_PARAMS | {"method", "maddr"}
_URI_DELIMITER = re.compile(r"[;?/=@]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]++", re.ASCII)  # header-name = token
_PLUS_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z])\+(?=[A-Za-z])")


def check_user(user: str, start: int, report: FindingReport) -> None:
    if _URI_DELIMITER.search(unescape(user) or user):
        detail = "Check the host: all that stands before the @ is the user, also what looks like a host or a parameter."
        report.add("USER_LOOKS_LIKE_URI_PARTS", start, start + len(user), detail)
    if "%" in user:
        check_escapes(user, start, report)


def check_password(password: str, start: int, report: FindingReport) -> None:
    report.add("PASSWORD_IN_URI", start - 1, start + len(password), AUTHENTICATION_ADVICE)
    if "%" in password:
        check_escapes(password, start, report)


def check_port(port: str, start: int, report: FindingReport) -> None:
    significant = port.lstrip("0")
    if not significant or len(significant) > 5 or int(significant) > 65535:
        report.add("PORT_OUT_OF_RANGE", start, start + len(port), "Use a port from 1 to 65535.")
    elif port[0] == "0":
        detail = f"Write the port as {significant}, without leading zeros."
        report.add("PORT_WITH_LEADING_ZERO", start, start + len(port), detail)


def decode_and_check_parameters(raw_parameters: str, start: int, report: FindingReport) -> tuple[NameValuePairs, ValuesByName]:
    """Decodes uri-parameters, checks them, and adds findings to `report`.

    `raw_parameters` is their text, which begins at `start` in the URI. Returns the parameters in order, and their values by
    lower-case name.
    """
    plain = PARAMS_WITHOUT_FINDINGS_BY_TEXT.get(raw_parameters)
    if plain:
        return plain
    pairs: list[tuple[str, str | None]] = []
    values: dict[str, str | None] = {}
    end = start
    for item in raw_parameters[1:].split(";"):
        if report.is_closed:
            return decode_name_value_list(raw_parameters[1:], ";"), {}
        start = end + 1
        end = start + len(item)
        spelled_name, equals, spelled_value = item.partition("=")
        name, value = spelled_name, spelled_value if equals else None
        if "%" in item:
            name, value = unescape(name) or name, value and unescape(value)
        pairs.append((name, value))
        key = name.lower()
        if key in values:
            detail = f"Leave out the second {shorten_name(spelled_name)}: a parameter comes once."
            report.add("DUPLICATE_PARAM", start, end, detail)
        if key in _PARAMS_WITH_RULES:
            _check_parameter_with_rules(key, value, start, end, report)
        elif not report.takes_only_errors:
            _report_other_parameter(spelled_name, spelled_value, start, end, report)
        if "%" in item:
            if key in _ROUTING_PARAMS:
                detail = f"Write {key} and its value without % escapes."
                report.add("ESCAPED_CONTROL_PARAM", start, end, detail)
            check_escapes(spelled_name, start, report)
            check_escapes(spelled_value, start + len(spelled_name) + 1, report)
        values[key] = value
    return tuple(pairs), values


def _check_parameter_with_rules(key: str, value: str | None, start: int, end: int, report: FindingReport) -> None:
    lower = value.lower() if value else ""
    match key:
        case "method":
            report.add("METHOD_PARAM", start, end, "Leave out method: a call is always an INVITE (RFC 3261 §19.1.1).")
        case "maddr":
            detail = "Leave out maddr and name that address as the host: maddr would send the call past the host."
            report.add("MADDR_OVERRIDES_HOST", start, end, detail)
        case "transport" if value is None:
            report.add("TRANSPORT_WITHOUT_VALUE", start, end, "Write transport=udp, transport=tcp or transport=tls.")
        case "transport" if lower not in TRANSPORTS:
            detail = "Use udp, tcp or tls: Twilio supports no other transport (32114)."
            report.add("TRANSPORT_NOT_SUPPORTED", start, end, detail)
        case "secure" if lower not in ("true", "false"):
            detail = "Write secure=true or secure=false: Twilio takes anything else for false (32114)."
            report.add("SECURE_NOT_SUPPORTED", start, end, detail)
        case "secure" if value != lower:
            detail = f"Write secure={lower} in lower case, as Twilio documents it; an unknown value means false."
            report.add("SECURE_NOT_LOWER_CASE", start, end, detail)
        case "edge" if lower not in EDGES:
            report.add("UNKNOWN_EDGE", start, end, f"Use one of Twilio's edges: {', '.join(EDGES)}.")
        case "region" if lower not in REGIONS:
            report.add("UNKNOWN_REGION", start, end, "Use the edge parameter: Twilio knows no such region.")
        case "region":
            report.add("LEGACY_REGION", start, end, "Prefer the edge parameter: Twilio calls region a legacy one.")
        case "tnx":
            report.add("LEGACY_TNX", start, end, "Prefer the edge parameter, as in edge=ashburn-ix: Twilio deprecates tnx.")
        case _:
            pass


def _report_other_parameter(name: str, value: str, start: int, end: int, report: FindingReport) -> None:
    detail = f"Leave out {shorten_name(name)}: Twilio does not document this parameter."
    if name.lower() == "user" and value.lower() == "phone":
        # user=phone marks a telephone number (RFC 3261 §19.1.1); carriers and PBXs require it.
        detail = "Keep user=phone where the called system asks for it: Twilio does not document what it makes of it."
    report.add("OTHER_PARAM", start, end, detail)
    if "%" in name:
        detail = "Write the parameter's name without % escapes."
        report.add("ESCAPED_PARAM_NAME", start, start + len(name), detail)


def check_transport_security(
    sips: bool, port: str | None, values: ValuesByName, parts: UriParts, report: FindingReport
) -> None:
    """Reports contradictions between the scheme, the port and the parameters `transport` and `secure`.

    Also reports `transport=tls` without `secure`, because the media are then not encrypted. `values` has the parameters' values
    by lower-case name.
    """
    transport, secure = values.get("transport"), values.get("secure")
    transport = transport and transport.lower()
    encrypted = secure is not None and secure.lower() == "true"
    tls = encrypted or sips or transport == "tls"
    if encrypted and transport in ("udp", "tcp"):
        detail = f"Leave out transport={transport}, or secure=true: SRTP needs its keys sent over TLS."
        report.add("SECURE_TRANSPORT_CONTRADICTION", *parts.span("parameters"), detail)
    elif sips and transport == "udp":
        detail = "Use transport=tls or leave transport out: sips never goes over UDP (RFC 3261 §26.2.2)."
        report.add("SIPS_OVER_UDP", *parts.span("parameters"), detail)
    elif transport == "tls" and secure is None:
        detail = "Add secure=true to encrypt the media as well, or secure=false to say that signalling is enough."
        report.add("MEDIA_NOT_ENCRYPTED", *parts.span("parameters"), detail)
    if port == "5060" and tls:
        report.add("TLS_ON_PORT_5060", *parts.span("port"), "Check the port: TLS is usually served at 5061.")
    elif port == "5061" and not tls:
        detail = "Add transport=tls if 5061 is a TLS port, as it usually is."
        report.add("NO_TLS_ON_PORT_5061", *parts.span("port"), detail)


def decode_and_check_headers(raw_headers: str, start: int, report: FindingReport) -> NameValuePairs:
    """Decodes the headers of a URI, checks them, adds findings to `report`, and returns the decoded headers in order.

    `raw_headers` is their text, which begins at `start` in the URI.
    """
    size = raw_headers.count("&") + 1
    spaced = raw_headers.replace("%20", " ")
    plain = HEADERS_WITHOUT_FINDINGS_PATTERN.findall(spaced)
    if size == len(plain) <= HEADER_COUNT_TO_WARN and size == len({name.lower() for name, _ in plain}):
        return tuple([(name, unescape(value)) for name, value in plain] if "%" in spaced else plain)
    if size > HEADER_COUNT_TO_WARN:
        detail = f"Send fewer headers: Twilio refuses too many (13251), and {size} may be."
        report.add("MANY_HEADERS", start, start + len(raw_headers), detail)
    pairs: list[tuple[str, str | None]] = []
    seen: set[str] = set()
    end = start - 1
    for item in raw_headers.split("&"):
        if report.is_closed:
            return decode_name_value_list(raw_headers, "&")
        start = end + 1
        end = start + len(item)
        spelled_name, _, spelled_value = item.partition("=")
        name = unescape(spelled_name) or spelled_name
        pairs.append((name, unescape(spelled_value)))
        key = name.lower()
        if key in seen:
            detail = f"Send {shorten_name(spelled_name)} once: Twilio asks to avoid repeated headers (13251)."
            report.add("REPEATED_HEADER", start, end, detail)
        _check_header_name(name, key, start, start + len(spelled_name), report)
        _check_header_escapes_and_plus(spelled_name, spelled_value, start, report)
        seen.add(key)
    return tuple(pairs)


def _check_header_escapes_and_plus(name: str, value: str, start: int, report: FindingReport) -> None:
    value_start = start + len(name) + 1
    if "%" in name:
        report.add("ESCAPED_HEADER_NAME", start, value_start - 1, "Write the header's name without % escapes.")
        check_escapes(name, start, report)
    if "%" in value:
        check_escapes(value, value_start, report)
        if inner := HEADER_IN_VALUE_PATTERN.search(value):
            report.add("HEADER_IN_VALUE", value_start + inner.start(), value_start + inner.end(), HEADER_IN_VALUE_ADVICE)
    if "+" in value and (plus := _PLUS_BETWEEN_WORDS.search(value)):
        at = value_start + plus.start()
        report.add("PLUS_IS_NOT_SPACE", at, at + 1, "Write %20 if a space is meant: in a SIP URI + is a plus.")


def _check_header_name(name: str, key: str, start: int, end: int, report: FindingReport) -> None:
    if is_passed_x_header(key) and _HEADER_NAME.fullmatch(name):
        return
    if key in HEADERS_PASSED_BY_TWILIO:
        return
    if not _HEADER_NAME.fullmatch(name):
        report.add("BAD_HEADER_NAME", start, end, HEADER_NAME_ADVICE)
    elif key in _ROUTING_PARAMS:
        detail = f"Write ;{key}=… before the ?: as a header it is dropped and changes nothing (32113)."
        report.add("HEADER_NOT_PASSED", start, end, detail)
    elif key in HEADERS_DROPPED_BY_TWILIO or key.startswith(("p-", "x-twilio")):
        detail = f"Leave out {shorten_name(name)}: Twilio sets it itself or drops it (32113); use an X- name for your own data."
        report.add("HEADER_NOT_PASSED", start, end, detail)
    else:
        detail = f"Call it X-{shorten_name(name)}: Twilio's error pages say that other names are dropped (13252, 32113)."
        report.add("HEADER_WITHOUT_X_PREFIX", start, end, detail)
