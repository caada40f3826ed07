"""Checks the parameters of a call to a SIP address that go with `to`: `from`, `sip_auth_username` and `sip_auth_password`."""

import re
from typing import Final, NamedTuple

from app.sip.escapes import has_line_end_low_byte, is_control_or_line_separator
from app.sip.findings import Finding, FindingReport

SIP_AUTH_LENGTH_LIMIT: Final = 256
"""A user name or password must have fewer characters than this (Twilio errors 21221 and 21223)."""

# Twilio's guide "Making SIP Calls": alphanumeric characters and "+-_.". ASCII, since it becomes a SIP user.
_ILLEGAL_IN_FROM = re.compile(r"[^A-Za-z0-9+\-_.]++")


def check_from_parameter(text: str) -> tuple[Finding, ...]:
    """Checks `text`, the value of the parameter `from`, and returns the findings (errors and warnings).

    Twilio makes `from` the user of the From header in SIP.
    """
    report = FindingReport()
    if not text:
        detail = "Give the caller's name or number, for example Jack or +14155550100."
        report.add("FROM_EMPTY", 0, 0, detail)
    for run in _ILLEGAL_IN_FROM.finditer(text):
        detail = "Use only letters A-Z and a-z, digits and + - _ . here: a user name, not an address (21212)."
        report.add("FROM_CHARACTER", run.start(), run.end(), detail)
        if report.is_closed:
            break
    return report.sorted_findings()


class SipAuthFindings(NamedTuple):
    """The findings (errors and warnings) on `sip_auth_username` and on `sip_auth_password`.

    The `start` and `end` of a finding are positions of characters in the parameter's value.
    """

    username: tuple[Finding, ...]
    password: tuple[Finding, ...]


def check_sip_auth(username: str | None, password: str | None) -> SipAuthFindings:
    """Checks the digest credentials of a call, and returns the findings. No finding contains a part of either value."""
    of_username, of_password = FindingReport(), FindingReport()
    if username is not None:
        if not username:
            detail = "Give the user name, or leave out sip_auth_username."
            of_username.add("SIP_AUTH_USERNAME_EMPTY", 0, 0, detail)
        _check_credential(username, "SIP_AUTH_USERNAME", "sip_auth_username (21221, 21222)", of_username)
        if not password:
            detail = "Give sip_auth_password as well: a user name needs one (21225)."
            of_password.add("SIP_AUTH_PASSWORD_MISSING", 0, 0, detail)
    elif password:
        detail = "Give sip_auth_username as well: without it the password is not used."
        of_username.add("SIP_AUTH_USERNAME_MISSING", 0, 0, detail)
    if password:
        _check_credential(password, "SIP_AUTH_PASSWORD", "sip_auth_password (21223, 21224)", of_password)
    return SipAuthFindings(of_username.sorted_findings(), of_password.sorted_findings())


def _check_credential(value: str, code: str, parameter: str, report: FindingReport) -> None:
    """Checks a user name or password, and adds findings (errors and warnings) to `report`.

    Adds one finding if the value is too long, and otherwise one for each forbidden or unusual character. A character is unusual
    if SIP programs do not agree on it. The codes of the findings begin with `code`, and their texts call the value `parameter`.

    A user name is sent as a quoted-string (RFC 3261 §25.1). This has no control characters, and `"` and `\\` only as a
    quoted-pair. Non-ASCII characters are unsafe, because digest had no agreed charset before RFC 7616.
    """
    if len(value) >= SIP_AUTH_LENGTH_LIMIT:
        detail = f"Shorten {parameter} to at most {SIP_AUTH_LENGTH_LIMIT - 1} characters."
        report.add(f"{code}_TOO_LONG", SIP_AUTH_LENGTH_LIMIT - 1, len(value), detail)
        return
    for at, character in enumerate(value):
        if is_control_or_line_separator(character) or has_line_end_low_byte(character) or "\ud800" <= character <= "\udfff":
            detail = f"Remove this character from {parameter}: it is not legal in SIP."
            report.add(f"{code}_CHARACTER", at, at + 1, detail)
        elif not character.isascii() or (character in '"\\' and code == "SIP_AUTH_USERNAME"):
            detail = f"Prefer printable ASCII in {parameter}: SIP software does not agree on this character."
            report.add(f"{code}_UNUSUAL", at, at + 1, detail)
