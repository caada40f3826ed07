"""SIP addresses: RFC 3261 parsing, explained findings, and the gateway's rules. Pure; imports nothing else of ours.

grammar.py holds the productions, diagnosis.py says why a text is not in the grammar, rules.py and hosts.py what the
gateway makes of one that is. Every code is explained in docs/sip.md.
"""

from app.sip.call_parameters import SipAuthFindings, check_from, check_sip_auth
from app.sip.findings import SEVERITIES, Finding, Severity
from app.sip.uri import SipUri

__all__ = ["SEVERITIES", "Finding", "Severity", "SipAuthFindings", "SipUri", "check_from", "check_sip_auth"]
