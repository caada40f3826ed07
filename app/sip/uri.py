"""The class SipUri, which parses, checks and compares SIP addresses, without I/O, settings or clock."""

from dataclasses import dataclass, field
from typing import Any, Final, Self

from app.sip.comparison import are_equal_uris, to_comparable_uri
from app.sip.diagnosis import diagnose_syntax
from app.sip.escapes import NameValuePairs, unescape
from app.sip.findings import Finding, FindingReport, Severity
from app.sip.grammar import SIP_URI, UriParts
from app.sip.hosts import check_and_normalize_host
from app.sip.rules import (
    USER_WITHOUT_FINDINGS_PATTERN,
    ValuesByName,
    check_password,
    check_port,
    check_transport_security,
    check_user,
    decode_and_check_headers,
    decode_and_check_parameters,
)

ADDRESS_LENGTH_LIMIT: Final = 255
"""The part of a SIP URI before the "?" must have fewer characters than this (Twilio's guide "Making SIP Calls")."""
HEADERS_LENGTH_LIMIT: Final = 1024
"""The part of a SIP URI after the "?", the headers, must have fewer characters than this (Twilio error 21227)."""
MAX_PARSED_LENGTH: Final = 65_535
"""The maximum length of a SIP message in a datagram (RFC 3261 §18.1.1). A longer text is refused and not parsed."""


@dataclass(frozen=True, eq=False)
class SipUri:
    """A SIP or SIPS URI by RFC 3261 §19.1, with the findings (errors and warnings) on it.

    `text` is the original, which is forwarded byte for byte. The other parts are decoded; invalid parts are None or empty. A
    value whose escapes are not UTF-8 is None; a name with such escapes stays as written.

    Equality follows RFC 3261 §19.1.4 and is not transitive: `sip:a@b.example` equals `sip:a@b.example;x=1` and
    `sip:a@b.example;x=2`, but these two are not equal. A text that is not a URI equals only the same text.
    """

    text: str = field(repr=False)
    scheme: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    uri_parameters: NameValuePairs = ()
    headers: NameValuePairs = field(default=(), repr=False)
    findings: tuple[Finding, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses and checks any text; never raises. The work is linear in the length of the text.

        If a part of the text is too long, the findings are only about lengths. A text longer than MAX_PARSED_LENGTH is not
        parsed.
        """
        report = FindingReport()
        if len(text) >= ADDRESS_LENGTH_LIMIT:
            _check_lengths(text, report)
        if len(text) > MAX_PARSED_LENGTH:
            return cls(text, findings=report.sorted_findings())
        parts: UriParts | None = SIP_URI.fullmatch(text)
        if parts is None:
            if report.is_closed:
                return cls(text, findings=report.sorted_findings())
            parts = diagnose_syntax(text, report)
        scheme, user, password, host, port, written_parameters, written_headers = parts.groups()
        scheme = scheme and scheme.lower()
        if not report.is_closed:
            _check_scheme_userinfo_and_port(text, scheme, parts, report)
        canonical = host and check_and_normalize_host(host, parts.start("host"), user is not None, report)
        parameters: NameValuePairs = ()
        headers: NameValuePairs = ()
        values: ValuesByName = {}
        if written_parameters:
            parameters, values = decode_and_check_parameters(written_parameters, parts.start("parameters"), report)
        if written_headers:
            headers = decode_and_check_headers(written_headers, parts.start("headers"), report)
        if values or port is not None:
            check_transport_security(scheme == "sips", port, values, parts, report)
        # A frozen dataclass's __init__ sets each field with object.__setattr__, which would take a third of this method's time.
        uri = object.__new__(cls)
        fields = {
            "text": text,
            "scheme": scheme,
            "user": unescape(user) if user and "%" in user else user,
            "password": password and unescape(password),
            "host": canonical,
            "port": int(port) if port and len(port) < ADDRESS_LENGTH_LIMIT else None,
            "uri_parameters": parameters,
            "headers": headers,
            "findings": report.sorted_findings() if report else (),
        }
        object.__setattr__(uri, "__dict__", fields)
        return uri

    @property
    def valid(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    def __eq__(self, other: object) -> bool:
        return are_equal_uris(self.text, other.text) if isinstance(other, SipUri) else NotImplemented

    def __hash__(self) -> int:
        key = to_comparable_uri(self.text)
        return hash(self.text if key is None else key.exact_parts)

    def as_dict(self) -> dict[str, Any]:
        """Returns a JSON object with `uri`, `valid`, `findings` and `parsed`, without passwords and lone surrogates."""
        return {
            "uri": _text_for_display(self.text),
            "valid": self.valid,
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity.value,
                    "start": finding.start,
                    "end": finding.end,
                    "detail": finding.detail,
                }
                for finding in self.findings
            ],
            "parsed": {
                "scheme": self.scheme,
                "user": self.user,
                "password": None if self.password is None else "***",
                "host": self.host,
                "port": self.port,
                "uri_parameters": [list(pair) for pair in self.uri_parameters],
                "headers": [list(pair) for pair in self.headers],
            },
        }


def _check_scheme_userinfo_and_port(text: str, scheme: str | None, parts: UriParts, report: FindingReport) -> None:
    """Checks scheme, user, password and port by the rules of RFC 3261 and of Twilio, and adds findings to `report`."""
    _, user, password, host, port, _, _ = parts.groups()
    if scheme == "sips":
        detail = "Use sip: with ;transport=tls, and ;secure=true for the media: Twilio advises against sips:."
        report.add("SIPS_SCHEME", 0, 4, detail)
    if user and not USER_WITHOUT_FINDINGS_PATTERN.fullmatch(user):
        check_user(user, parts.start("user"), report)
    elif user is None and host is not None and "@" not in text:
        report.add("NO_USER", *parts.span("host"), "Put a user before the host, as in sip:user@example.com.")
    if password is not None:
        check_password(password, parts.start("password"), report)
    if port is not None:
        check_port(port, parts.start("port"), report)


def _check_lengths(text: str, report: FindingReport) -> None:
    """Reports an address or headers that are too long. If one of them is, closes the report, which then ignores findings."""
    # In every SIP URI the first "?" after the "@", or the first at all, starts the headers.
    question = text.find("?", text.find("@") + 1)
    end = len(text) if question < 0 else question
    size = len(text) - end - 1
    if end >= ADDRESS_LENGTH_LIMIT:
        detail = f"Shorten the part before the ?: it has {end} characters and may have {ADDRESS_LENGTH_LIMIT - 1}."
        report.add("ADDRESS_TOO_LONG", ADDRESS_LENGTH_LIMIT - 1, end, detail)
    if size >= HEADERS_LENGTH_LIMIT:
        detail = f"Shorten the headers: they have {size} characters and may have {HEADERS_LENGTH_LIMIT - 1} (21227)."
        report.add("HEADERS_TOO_LONG", end + HEADERS_LENGTH_LIMIT, len(text), detail)
    report.is_closed = report.has_error


def password_span(text: str) -> tuple[int, int] | None:
    """Returns the start and end (excluded) of a possible password, even in a text that is not a URI; None if there is none."""
    start = 0
    if text[:5].lower().startswith(("sip:", "sips:")):
        start = text.index(":") + 1
    colon, at = text.find(":", start), text.rfind("@")
    return (colon + 1, at) if 0 <= colon < at and "@" not in text[start:colon] else None


def _text_for_display(text: str) -> str:
    """Returns the text for display: without anything that may be a password, truncated, encodable as UTF-8."""
    if span := password_span(text):
        text = f"{text[: span[0]]}***{text[span[1] :]}"
    if len(text) > ADDRESS_LENGTH_LIMIT + HEADERS_LENGTH_LIMIT:
        text = f"{text[: ADDRESS_LENGTH_LIMIT + HEADERS_LENGTH_LIMIT]}…"
    return text.encode("utf-8", "backslashreplace").decode()
