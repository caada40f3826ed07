"""The names of header fields in a SIP URI that Twilio puts into the INVITE, and the names that it drops.

Twilio passes each `X-…` except `X-Twilio…`, and four more names: <https://www.twilio.com/docs/voice/api/receiving-sip> and the
error pages 13252 and 32113. It drops all other standard names. For names that are not standard, Twilio's pages contradict each
other. All names in this module are in lower case, because header names are case-insensitive (RFC 3261 §7.3.1).
"""

from typing import Final

HEADERS_PASSED_BY_TWILIO: Final = frozenset({"user-to-user", "remote-party-id", "p-preferred-identity", "p-called-party-id"})

# The IANA registry "Header Fields" of SIP, without the P- names, which rules.py refuses as a family.
_IANA_HEADERS = """
    accept accept-contact accept-encoding accept-language accept-resource-priority additional-identity alert-info
    allow allow-events answer-mode attestation-info authentication-info authorization call-id call-info
    cellular-network-info contact content-disposition content-encoding content-id content-language content-length
    content-type cseq date dc-info encryption error-info event expires feature-caps flow-timer from geolocation
    geolocation-error geolocation-routing hide history-info identity identity-info in-reply-to info-package join
    max-breadth max-forwards mime-version min-expires min-se organization origination-id path permission-missing
    policy-contact policy-id priority priority-share priority-verstat priv-answer-mode privacy proxy-authenticate
    proxy-authorization proxy-require rack reason reason-phrase record-route recv-info refer-events-at refer-sub
    refer-to referred-by reject-contact relayed-charge replaces reply-to request-disposition require
    resource-priority resource-share response-key response-source restoration-info retry-after route rseq
    security-client security-server security-verify server service-interact-info service-route session-expires
    session-id sip-etag sip-if-match subject subscription-state supported suppress-if-match target-dialog timestamp
    to trigger-consent unsupported user-agent via warning www-authenticate
"""
_COMPACT_FORMS = "a b c d e f i j k l m n o r s t u v x y"
# "diversion" is not registered but in wide use. "body" and "method" are in RFC 3261 §19.1.1. The rest are names of URI
# parameters, which have no effect after the "?".
_UNREGISTERED_HEADERS = "diversion body method maddr ttl lr transport secure edge region"

HEADERS_DROPPED_BY_TWILIO: Final = frozenset(f"{_IANA_HEADERS} {_COMPACT_FORMS} {_UNREGISTERED_HEADERS}".split())


def is_passed_x_header(name: str) -> bool:
    """Returns whether Twilio puts this custom header into the INVITE: its lower-case name begins with `x-`, not `x-twilio`."""
    return name.startswith("x-") and not name.startswith("x-twilio")
