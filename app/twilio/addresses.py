"""Compares addresses that Callgate sent with addresses that Twilio returns.

Twilio does not document how it writes a SIP address in its list of calls: it may change letters to lower case, decode escapes,
and omit port, parameters and headers. This module reduces an address to a key without these differences. If the key of a
returned address is none of the keys of the sent address (`possible_address_keys`), the addresses differ. Equal keys do not
prove that the addresses are equal.
"""

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address

from app.sip.comparison import are_equal_uris
from app.sip.escapes import unescape_repeatedly
from app.sip.grammar import HOST

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.DOTALL)
_PHONE_NUMBER = re.compile(r"[+(]?[0-9][0-9 ().\-]*")
_NOT_DIGITS = re.compile(r"[^0-9]")
_SIP_PARTS = re.compile(
    r"(?P<base>sips?:(?:[^@]*@)?)(?P<host>\[[^]]*\]|[^:;?]*)(?P<port>:[0-9]*)?(?P<rest>.*)",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
# A SIP host without scheme and user, as Twilio might show it. `_split_scheme` takes `example.com:` before a port for a scheme.
_HOST_WITHOUT_SCHEME = re.compile(rf"{HOST}(?::[0-9]*+)?+(?:[;?].*+)?+", re.ASCII | re.DOTALL)
# `"Name" <address>` (RFC 3261 §25.1 `name-addr`). A decoded SIP address may end with `>`, too. So neither a name without quotes
# nor an address without scheme may contain a character that begins parameters or headers.
_NAME_AND_ADDRESS = re.compile(
    r'(?:"(?:[^"\\]|\\.)*+"\s*+|[^"<@:;?]*+)<((?:sips?|tel|client):.*|[^;?]*)>', re.IGNORECASE | re.ASCII | re.DOTALL
)
_NANP_NUMBER_LENGTH = 11


def address_key(address: str) -> str:
    """Returns the key by which a sent and a returned `to` of a call are compared.

    The key has no parts that Twilio may change: it is a SIP address's user and host, a number's digits, or a client's name.
    """
    text = _strip_name_and_escapes(address)
    scheme, rest = _split_scheme(text)
    if scheme in ("sip", "sips"):
        return "sip:" + _sip_key(rest)
    if scheme == "client":
        return "client:" + rest.partition("?")[0]
    if scheme != "tel" and ("@" in text or _HOST_WITHOUT_SCHEME.fullmatch(text)):
        return "sip:" + _sip_key(text)
    if scheme not in ("", "tel"):
        return text
    return "tel:" + (_comparable_digits(rest.partition(";")[0]) or rest)


def possible_address_keys(sent: str) -> Collection[str]:
    """Returns the keys (`address_key`) that a call's `to` can have when Twilio returns it. `address_key(sent)` is one of them.

    There is a second key if the address has no user, but an escaped `@` in its parameters. Twilio may decode this `@`, and the
    text before it then looks like a user.
    """
    spellings = address_spellings(sent) if "%" in sent else (sent,)
    return {address_key(spelling) for spelling in spellings}


def caller_key(caller: str) -> str:
    """Returns the key by which a sent and a returned `from` of a call are compared.

    The key is a SIP address's user, or a phone number's digits. It has no host, because Twilio may omit or replace the host.
    """
    _, rest = _split_scheme(_strip_name_and_escapes(caller))
    return _user_key(rest.partition("?")[0].partition("@")[0])


def is_same_address(sent: str, returned: str) -> bool:
    """Returns whether both addresses are the same text, or SIP URIs that are equal by RFC 3261 §19.1.4."""
    return sent == returned or are_equal_uris(sent, returned)


def is_same_caller(sent: str, returned: str) -> bool:
    """Returns whether `returned` is exactly the `from` that was sent, alone or as the user part of a SIP address."""
    match = re.fullmatch(r"(?:sips?:)?([^@:;?]+)(?:@.*)?", returned, re.IGNORECASE | re.ASCII)
    return returned == sent or (match is not None and match[1] == sent)


def address_spellings(address: str) -> Iterable[str]:
    """Returns the forms in which Twilio may write the `to` of a call. The original text is the first one.

    The filter of Twilio's call list compares whole texts, so a search has to try each of these forms.
    """
    found = {address: None}
    match = _SIP_PARTS.fullmatch(address)
    if match:
        base, host, port, rest = match["base"], match["host"].lower(), match["port"] or "", match["rest"]
        for text in (base + host + port + rest, base + match["host"] + port + rest.partition("?")[0], base + host):
            found[text] = None
        found["sip:" + (base + host).lower().partition(":")[2]] = None
    elif address.startswith("client:"):
        name = address.partition("?")[0]
        found |= {name: None, name.lower(): None}
    return found


def has_no_optional_parts(address: str) -> bool:
    """Returns whether the address has no part that Twilio may omit or decode. Twilio may still change letters to lower case."""
    match = _SIP_PARTS.fullmatch(address)
    if match is None:
        return not {"%", "?"} & set(address)
    plain = not match["port"] and not match["rest"] and not {"%", ";", "?"} & set(address)
    return plain and address[:4].lower() == "sip:" and ":" not in match["base"][4:]


def _strip_name_and_escapes(address: str) -> str:
    """Returns the address in lower case and without escapes. Of `"Name" <address>`, returns only the address.

    Decodes escapes of escapes, too, so that the result is the same if Twilio has decoded the address already. Leaves out NUL,
    which Postgres cannot store.
    """
    text = address.strip()
    if named := _NAME_AND_ADDRESS.fullmatch(text):
        text = named[1]
    return unescape_repeatedly(text).replace("\0", "").lower().strip()


def _split_scheme(text: str) -> tuple[str, str]:
    match = _SCHEME.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


def _sip_key(after_scheme: str) -> str:
    """Returns `user@host`, normalized for comparison. `after_scheme` is the part of a SIP address after `sip:`.

    The address is decoded already, so a `?` or `@` that was escaped in the original address also ends a part.
    """
    user, at, host = after_scheme.partition("?")[0].partition("@")
    if not at:
        user, host = "", user
    return f"{_user_key(user)}@{_host_key(host)}"


def _user_key(user: str) -> str:
    """Returns the user without password and parameters. If the user is a phone number, returns its digits."""
    user = re.split(r"[:;]", user, maxsplit=1)[0].strip()
    return _comparable_digits(user) if _PHONE_NUMBER.fullmatch(user) else user


def _host_key(host: str) -> str:
    if host.startswith("["):
        literal = host[1:].partition("]")[0]
        try:
            return IPv6Address(literal).compressed
        except ValueError:
            return literal
    return re.split(r"[:;@]", host, maxsplit=1)[0].strip().rstrip(".")


def _comparable_digits(number: str) -> str:
    """Returns a phone number's digits without leading zeros, and without North America's country code 1.

    A North American number in national format, which has no country code, gives the same digits.
    """
    digits = _NOT_DIGITS.sub("", number).lstrip("0")
    return digits[1:] if len(digits) == _NANP_NUMBER_LENGTH and digits[0] == "1" else digits
