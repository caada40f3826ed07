"""The codes of findings with their severities, and the report that a validation fills."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import Final

MAX_FINDINGS: Final = 10
"""The maximum number of findings on an address."""
AUTHENTICATION_ADVICE: Final = "Leave out the colon and the password; use sip_auth_username and sip_auth_password."
HEADER_NAME_ADVICE: Final = "Use letters, digits and hyphens: a header's name is a token (RFC 3261 §25.1; 21228, 32111)."
HEADER_IN_VALUE_ADVICE: Final = (
    "Write & and = if another header begins here: only in the raw body of a form is the & written as %26."
)


class Severity(StrEnum):
    """The severity of a finding. An `error` prevents the call; `policy` (legal, but questionable) and `warning` do not."""

    ERROR = "error"
    POLICY = "policy"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about a text, from the character `start` (included) to `end` (excluded). `code` identifies its kind.

    `detail` is one sentence that says how to correct the text, and never contains a password or the value of a header.
    """

    code: str
    severity: Severity
    start: int
    end: int
    detail: str


_ERRORS = """
    EMPTY ADDRESS_TOO_LONG HEADERS_TOO_LONG
    CONTROL_CHAR NON_ASCII BAD_ESCAPE
    BAD_SYNTAX BAD_SCHEME BAD_USER BAD_PASSWORD BAD_HOST BAD_PORT BAD_PARAM BAD_HEADER
    PASSWORD_IN_URI
    NOT_UTF8 LINE_SEPARATOR BYTE_TRUNCATION_CRLF DOUBLE_ESCAPED_CONTROL
    NON_PUBLIC_HOST IPV4_COMPATIBLE_IPV6 NAT64_EMBEDDED_IPV4 LABEL_TOO_LONG
    TWILIO_EDGE_IN_HOST TWILIO_DOMAIN_WITHOUT_USER
    PORT_OUT_OF_RANGE
    DUPLICATE_PARAM METHOD_PARAM MADDR_OVERRIDES_HOST ESCAPED_CONTROL_PARAM
    TRANSPORT_NOT_SUPPORTED SECURE_NOT_SUPPORTED SECURE_TRANSPORT_CONTRADICTION SIPS_OVER_UDP
    HEADER_NOT_PASSED BAD_HEADER_NAME ESCAPED_HEADER_NAME
    FROM_EMPTY FROM_CHARACTER
    SIP_AUTH_USERNAME_EMPTY SIP_AUTH_USERNAME_TOO_LONG SIP_AUTH_USERNAME_CHARACTER
    SIP_AUTH_PASSWORD_MISSING SIP_AUTH_PASSWORD_TOO_LONG SIP_AUTH_PASSWORD_CHARACTER
"""
_POLICIES = """
    SIPS_SCHEME NO_USER USER_LOOKS_LIKE_URI_PARTS ESCAPED_NON_ASCII
    IPV6_HOST IP_LITERAL_HOST NOT_A_PUBLIC_NAME TRAILING_DOT TWILIO_PSTN_HOST TWILIO_LEGACY_HOST
    PORT_WITH_LEADING_ZERO
    OTHER_PARAM ESCAPED_PARAM_NAME TRANSPORT_WITHOUT_VALUE SECURE_NOT_LOWER_CASE UNKNOWN_EDGE UNKNOWN_REGION
    HEADER_WITHOUT_X_PREFIX REPEATED_HEADER MANY_HEADERS
    SIP_AUTH_USERNAME_UNUSUAL SIP_AUTH_PASSWORD_UNUSUAL
"""
_WARNINGS = """
    MEDIA_NOT_ENCRYPTED TLS_ON_PORT_5060 NO_TLS_ON_PORT_5061 LEGACY_REGION LEGACY_TNX PLUS_IS_NOT_SPACE
    HEADER_IN_VALUE SIP_AUTH_USERNAME_MISSING
"""

SEVERITIES: Final[Mapping[str, Severity]] = MappingProxyType(
    dict.fromkeys(_ERRORS.split(), Severity.ERROR)
    | dict.fromkeys(_POLICIES.split(), Severity.POLICY)
    | dict.fromkeys(_WARNINGS.split(), Severity.WARNING)
)
"""The severity of each code of a finding. A test checks that `docs/sip.md` explains every code."""


class FindingReport(list[Finding]):
    """The list of the findings of one validation. It keeps the first MAX_FINDINGS findings, to bound the work.

    If none of them is an error, the first error after them replaces the last of them. So a list that is cut off never makes an
    address look valid. If `is_closed` is true, the report is complete, and `add` ignores further findings.
    """

    is_closed = False

    def add(self, code: str, start: int, end: int, detail: str) -> None:
        if self.is_closed:
            return
        severity = SEVERITIES[code]
        if self.takes_only_errors:
            if severity is not Severity.ERROR:
                return
            self.pop()
        self.append(Finding(code, severity, start, end, detail))
        self.is_closed = self.takes_only_errors and self.has_error

    @property
    def has_error(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self)

    @property
    def takes_only_errors(self) -> bool:
        """Whether the report has MAX_FINDINGS findings. Then `add` ignores a further finding unless it is an error."""
        return len(self) >= MAX_FINDINGS

    def sorted_findings(self) -> tuple[Finding, ...]:
        """Returns the findings, sorted by their position in the text."""
        return tuple(sorted(self, key=attrgetter("start", "end")))


def shorten_name(name: str) -> str:
    """Cuts the name of a URI parameter or header to 40 characters, so that the `detail` of a finding can quote it."""
    return name if len(name) <= 40 else name[:40] + "…"
