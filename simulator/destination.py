"""Validates `To` and `From`, with Twilio's error codes.

Twilio's answer to a malformed SIP URI is not documented. The simulator answers 21211, as for any other invalid `To`.
"""

import re

from simulator.errors import TwilioError

MAX_SIP_ADDRESS_CHARACTERS = 254
MAX_SIP_HEADERS_CHARACTERS = 1023

SIP_ADDRESS_PATTERN = re.compile(
    r"""sip:
    (?:(?P<user>[^@:;?\s\x00-\x1f\x7f]+) [^@?\s\x00-\x1f\x7f]* @)?
    (?:[A-Za-z0-9.-]+ | \[[0-9A-Fa-f:.]+\])
    (?::\d{1,5})?
    (?:;[^\s?\x00-\x1f\x7f]*)?""",
    re.VERBOSE | re.IGNORECASE,
)
# RFC 3261, section 25.1: hname and hvalue. A value may also have the reserved characters `; , = @` as they are.
SIP_HEADER_NAME_PATTERN = re.compile(r"(?:[\w.!~*'()\[\]/?:+$-]|%[0-9A-Fa-f]{2})+", re.ASCII)
SIP_HEADER_VALUE_PATTERN = re.compile(r"(?:[\w.!~*'()\[\]/?:+$;,=@-]|%[0-9A-Fa-f]{2})*", re.ASCII)
SIP_FROM_PATTERN = re.compile(r"[A-Za-z0-9+\-_.]+")
PHONE_CHARACTERS_PATTERN = re.compile(r"\+?[0-9 ().-]+")
PHONE_NUMBER_PATTERN = re.compile(r"\+?[1-9][0-9]{6,14}")
NANP_NUMBER_PATTERN = re.compile(r"\+1(\d{3})(\d{3})(\d{4})")


def is_sip(to: str) -> bool:
    return to[:4].lower() == "sip:"


def sip_user(to: str) -> str | None:
    """Returns the user part of a SIP URI; None if the URI has none, and for every other destination."""
    match = SIP_ADDRESS_PATTERN.match(to)
    return match["user"] if match else None


def validate_to(to: str) -> None:
    if is_sip(to):
        _validate_sip_uri(to)
    elif not to.startswith("client:"):
        if not PHONE_CHARACTERS_PATTERN.fullmatch(to):
            raise TwilioError(21211, to)
        if not PHONE_NUMBER_PATTERN.fullmatch(re.sub(r"[ ().-]", "", to)):
            raise TwilioError(21217, to)


def validate_from(caller: str, *, to: str) -> None:
    """Raises error 21212 if `caller`, the parameter `From`, is invalid for a call to `to`.

    In a call to a SIP URI, `From` becomes the user part of the SIP header From, and does not have to be a verified number.
    """
    if is_sip(to):
        valid = SIP_FROM_PATTERN.fullmatch(caller) is not None
    elif to.startswith("client:"):
        valid = SIP_FROM_PATTERN.fullmatch(caller.removeprefix("client:")) is not None
    else:
        valid = caller.startswith("client:") or PHONE_CHARACTERS_PATTERN.fullmatch(caller) is not None
    if not valid:
        raise TwilioError(21212, caller)


def _validate_sip_uri(to: str) -> None:
    address, question_mark, headers = to.partition("?")
    if len(address) > MAX_SIP_ADDRESS_CHARACTERS or not SIP_ADDRESS_PATTERN.fullmatch(address):
        raise TwilioError(21211, to)
    if len(headers) > MAX_SIP_HEADERS_CHARACTERS:
        raise TwilioError(21227)
    for header in headers.split("&") if question_mark else ():
        name, _, value = header.partition("=")
        if not SIP_HEADER_NAME_PATTERN.fullmatch(name):
            raise TwilioError(21228, name)
        if not SIP_HEADER_VALUE_PATTERN.fullmatch(value):
            raise TwilioError(21229, name)


def formatted_address(endpoint: str) -> str:
    """Returns an address as Twilio shows it in `to_formatted`: a North American number in national format, else unchanged."""
    match = NANP_NUMBER_PATTERN.fullmatch(endpoint)
    return f"({match[1]}) {match[2]}-{match[3]}" if match else endpoint
