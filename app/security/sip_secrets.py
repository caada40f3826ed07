"""Finds SIP user names and passwords in TwiML (https://www.twilio.com/docs/voice/twiml/sip)."""

import re

# A start tag <Sip> in TwiML, with its attributes. A ">" in quotes does not end it.
_SIP_TAG = re.compile(
    r"""<(?:[^\s<>/:"'=]++:)?sip(?=[\s/>])(?P<attributes>(?:[^"'<>]++|"[^"]*+"|'[^']*+'|["'])*+)""", re.IGNORECASE | re.ASCII
)
# A quoted value in a start tag, with the name of its attribute.
_ATTRIBUTE = re.compile(
    r"""(?:(?<![^\s=<>"'/])(?P<name>[^\s=<>"'/]++)\s*+=\s*+)?(?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)')""", re.ASCII
)
_SECRET_ATTRIBUTES = ("username", "password")
# A SIP URI with a password, which ends at the last "@" before ASCII white space or "<". The second alternative skips a text
# without "@", so that a long text takes linear time.
_SIP_URI_WITH_PASSWORD = re.compile(
    r"(?<![a-z0-9+.-])sips?:[^\x00-\x20<>@:]*+:(?:(?P<password>[^\x00-\x20<]*)@|[^\x00-\x20<]*+)", re.IGNORECASE | re.ASCII
)


def find_sip_secrets(text: str) -> list[tuple[int, int]]:
    """Returns the positions (start, end) of each SIP user name and password in TwiML.

    These are the values of the attributes `username` and `password` of <Sip>, and passwords in SIP URIs
    (`sip:user:password@host`).
    """
    if "<" not in text:
        return []
    found = [uri.span("password") for uri in _SIP_URI_WITH_PASSWORD.finditer(text) if uri["password"]]
    for tag in _SIP_TAG.finditer(text):
        for attribute in _ATTRIBUTE.finditer(text, *tag.span("attributes")):
            name = (attribute["name"] or "").rpartition(":")[2].lower()
            value = "single" if attribute["double"] is None else "double"
            if name in _SECRET_ATTRIBUTES and attribute[value]:
                found.append(attribute.span(value))
    return found
