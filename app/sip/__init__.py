"""Parses SIP addresses by RFC 3261, and reports findings with explanations. Imports no other package of Callgate.

grammar.py has the productions, diagnosis.py explains texts outside the grammar, and rules.py and hosts.py check those inside
it. docs/sip.md explains every code.
"""

from app.sip.call_parameters import SipAuthFindings, check_from, check_sip_auth
from app.sip.findings import SEVERITIES, Finding, Severity
from app.sip.uri import SipUri

__all__ = ["SEVERITIES", "Finding", "Severity", "SipAuthFindings", "SipUri", "check_from", "check_sip_auth"]
