"""Parses SIP addresses by RFC 3261, and reports findings with explanations. Imports no other package of Callgate.

grammar.py has the grammar as regular expressions. diagnosis.py explains why a text does not match it, and finds its valid
parts. rules.py and hosts.py check the valid parts. docs/sip.md explains every code of a finding.
"""

from app.sip.call_parameters import SipAuthFindings, check_from_parameter, check_sip_auth
from app.sip.escapes import has_escaped_control
from app.sip.findings import SEVERITIES, Finding, Severity
from app.sip.uri import SipUri

__all__ = [
    "SEVERITIES",
    "Finding",
    "Severity",
    "SipAuthFindings",
    "SipUri",
    "check_from_parameter",
    "check_sip_auth",
    "has_escaped_control",
]
