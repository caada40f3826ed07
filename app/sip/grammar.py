"""The grammar of a SIP URI as regular expressions: RFC 3261 §25.1, with the IPv4 and IPv6 rules of RFC 5954 §4.1.

Each constant stands for the grammar rule of the same name. Every repetition is possessive or has a small bound, so matching
takes linear time for any text. No pattern uses `\\d`, `$` or a case-insensitive match beyond ASCII, which accept more than they
seem to.
"""

import re
from typing import Final, Protocol

_ALPHANUM = "A-Za-z0-9"
_UNRESERVED = _ALPHANUM + r"\-_.!~*'()"  # unreserved = alphanum / mark
_ESCAPED = "%[0-9A-Fa-f]{2}"  # escaped = "%" HEXDIG HEXDIG

USER_CHARACTERS: Final = _UNRESERVED + "&=+$,;?/"  # unreserved / user-unreserved
_PASSWORD_CHARACTERS = _UNRESERVED + "&=+$,"
PARAM_CHARACTERS: Final = _UNRESERVED + r"\[\]/:&+$"  # unreserved / param-unreserved
HEADER_CHARACTERS: Final = _UNRESERVED + r"\[\]/?:+$"  # unreserved / hnv-unreserved

_TOKEN = rf"[{_ALPHANUM}\-.!%*_+`'~]++"  # token = 1*(alphanum / "-" / "." / "!" / "%" / …)


def _one_or_more_pattern(characters: str) -> str:
    return f"(?:[{characters}]++|{_ESCAPED})++"


def _any_number_pattern(characters: str) -> str:
    return f"(?:[{characters}]++|{_ESCAPED})*+"


# user = 1*( unreserved / escaped / user-unreserved ). A telephone-subscriber is a subset of it (§19.1.6).
USER: Final = _one_or_more_pattern(USER_CHARACTERS)
PASSWORD: Final = _any_number_pattern(_PASSWORD_CHARACTERS)

# domainlabel = alphanum / alphanum *( alphanum / "-" ) alphanum;  toplabel = ALPHA / ALPHA *( … ) alphanum
_DOMAINLABEL = rf"[{_ALPHANUM}][{_ALPHANUM}\-]*+(?<!-)"
_TOPLABEL = rf"[A-Za-z][{_ALPHANUM}\-]*+(?<!-)"
# hostname = *( domainlabel "." ) toplabel [ "." ]: a label is not the last one when another follows its dot.
_HOSTNAME = rf"(?:{_DOMAINLABEL}\.(?=[{_ALPHANUM}]))*+{_TOPLABEL}\.?+"

# RFC 5954 §4.1: dec-octet as in RFC 3986, so that 256 and leading zeros are no address.
_DEC_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_DEC_OCTET}(?:\.{_DEC_OCTET}){{3}}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = (
    "(?:"
    + "|".join(
        [
            f"(?:{_H16}:){{6}}{_LS32}",
            f"::(?:{_H16}:){{5}}{_LS32}",
            f"(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}",
            f"(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}",
            f"(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}",
            f"(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}",
            f"(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}",
            f"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}",
            f"(?:(?:{_H16}:){{0,6}}{_H16})?::",
        ]
    )
    + ")"
)
# host = hostname / IPv4address / IPv6reference;  IPv6reference = "[" IPv6address "]"
HOST: Final = rf"(?:{_HOSTNAME}|{_IPV4}|\[{_IPV6}\])"
PORT: Final = "[0-9]++"  # port = 1*DIGIT

# uri-parameter = transport-param / user-param / method-param / ttl-param / maddr-param / lr-param / other-param.
# The value of the first three is a token, which may contain a bare "%" and "`". With any other value they match
# other-param = pname [ "=" pvalue ], as ttl, maddr and lr always do.
PARAM: Final = (
    rf"(?:(?i:transport|user|method)={_TOKEN}(?=[;?]|\Z)"
    rf"|{_one_or_more_pattern(PARAM_CHARACTERS)}(?:={_one_or_more_pattern(PARAM_CHARACTERS)})?+)"
)
HEADER: Final = (
    f"{_one_or_more_pattern(HEADER_CHARACTERS)}={_any_number_pattern(HEADER_CHARACTERS)}"  # header = hname "=" hvalue
)

# SIP-URI / SIPS-URI = scheme ":" [ userinfo ] hostport uri-parameters [ headers ].
# An unescaped "@" is allowed only at the end of userinfo. So the text before it is the user, even if it looks like a host.
SIP_URI: Final = re.compile(
    rf"(?P<scheme>[sS][iI][pP][sS]?):"
    rf"(?:(?P<user>{USER})(?::(?P<password>{PASSWORD}))?+@)?+"
    rf"(?P<host>{HOST})(?::(?P<port>{PORT}))?+"
    rf"(?P<parameters>(?:;{PARAM})*+)"
    rf"(?:\?(?P<headers>{HEADER}(?:&{HEADER})*+))?+",
    re.ASCII,
)

PartName = str
"""The name of a group of the regular expression `SIP_URI`, such as `host`."""


class UriParts(Protocol):
    """The interface through which the checks in app.sip.rules and SipUri read the parts of a URI.

    A match of the regular expression `SIP_URI` implements it. For a text that does not match, `ValidParts` of app.sip.diagnosis
    implements it.
    """

    def groups(self) -> tuple[str | None, ...]:
        """Returns the parts as written: scheme, user, password, host, port, parameters, headers. A missing part is None.

        Parameters keep the ";" before each of them. Headers have no "?" before them.
        """

    def start(self, part: PartName, /) -> int: ...

    def span(self, part: PartName, /) -> tuple[int, int]: ...


def split_name_value_list(part: str | None, separator: str) -> list[tuple[str, str | None]]:
    """Splits a list of `name=value` items. Returns names and values as written. An item without "=" has the value None."""
    if not part:
        return []
    return [
        (name, value if equals else None) for name, equals, value in [item.partition("=") for item in part.split(separator)]
    ]
