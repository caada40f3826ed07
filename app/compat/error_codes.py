"""Our errors by Twilio's numbers: where Twilio has a code for it, its own, else one of six digits that Twilio has not.

https://www.twilio.com/docs/api/errors. docs/errors.md shows the table; a test compares.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from app import errors
from app.errors import CallgateError, FieldError

UNKNOWN_OUTCOME = 900001
INVALID_EVENT = 21626
INVALID_RECORDING_EVENT = 13621
INVALID_MACHINE_DETECTION = 21234


class Told(NamedTuple):
    status: int
    code: int


TOLD: Mapping[type[CallgateError], Told] = {
    errors.MalformedRequest: Told(400, 20422),
    errors.MalformedBody: Told(400, 20422),
    errors.Unauthorized: Told(401, 20003),
    errors.TenantSuspended: Told(403, 20005),
    errors.CallbackForged: Told(403, 20403),
    errors.RouteNotFound: Told(404, 20404),
    errors.CallNotFound: Told(404, 20404),
    errors.SubresourceNotFound: Told(404, 20404),
    errors.DeliveryNotFound: Told(404, 20404),
    errors.MethodNotAllowed: Told(405, 20004),
    errors.NotAcceptable: Told(406, 900006),
    errors.RequestTimeout: Told(408, 900011),
    errors.NoUsableCredentials: Told(409, 900005),
    errors.WrongCallState: Told(400, 21220),
    errors.BodyTooLarge: Told(413, 900007),
    errors.UnsupportedMediaType: Told(415, 900008),
    errors.InvalidRequest: Told(400, 20422),
    errors.HeadTooLarge: Told(431, 900012),
    errors.CallPending: Told(409, 900002),
    errors.IdempotencyKeyReused: Told(422, 900003),
    errors.UpstreamRejected: Told(400, 20422),
    errors.UpstreamCredentialsRejected: Told(502, 900009),
    errors.UpstreamThrottled: Told(429, 20429),
    errors.UpstreamUnreachable: Told(503, 20503),
    errors.ActionUnknown: Told(409, 900010),
    errors.NoneFound: Told(409, 900004),
    errors.InternalError: Told(500, 20500),
    errors.DatabaseUnavailable: Told(503, 20503),
    errors.Overloaded: Told(503, 20503),
    errors.TooManyConnections: Told(503, 20503),
    errors.ShuttingDown: Told(503, 20503),
}

# Of a fault: by parameter and code where Twilio tells them apart, else by parameter.
_FAULTS: Mapping[tuple[str, str], int] = {
    ("/to", "missing"): 21201,
    ("/to", "HEADERS_TOO_LONG"): 21227,
    ("/to", "BAD_HEADER_NAME"): 21228,
    ("/to", "BAD_HEADER"): 21229,
    ("/from", "missing"): 21213,
    ("/twiml", "too_long"): 32018,
    ("/twiml", "url_and_twiml"): 32019,
    ("/sip_auth_username", "SIP_AUTH_USERNAME_TOO_LONG"): 21221,
    ("/sip_auth_password", "SIP_AUTH_PASSWORD_TOO_LONG"): 21223,
    ("/sip_auth_password", "SIP_AUTH_PASSWORD_MISSING"): 21225,
}
_PARAMETERS: Mapping[str, int] = {
    "/to": 21211,
    "/from": 21212,
    "/url": 21205,
    "/send_digits": 21206,
    "/timeout": 21208,
    "/application_sid": 21218,
    "/sip_auth_username": 21222,
    "/sip_auth_password": 21224,
    "/status_callback_event": INVALID_EVENT,
    "/recording_status_callback_event": INVALID_RECORDING_EVENT,
    "?PageSize": 20007,
}
_ITEM = re.compile(r"/[0-9]+\Z")
_UNKNOWN_PARAMETER = 20001
_METHOD = 21209
_OTHER_URL = 21200


def code_of(fault: FieldError) -> int:
    """Twilio's number for what is wrong with one parameter, or with one item of a list."""
    fault = replace(fault, pointer=_ITEM.sub("", fault.pointer))
    if fault.code in ("unknown_member", "unknown_parameter", "page_token_missing"):
        return _UNKNOWN_PARAMETER
    if code := _FAULTS.get((fault.pointer, fault.code)) or _PARAMETERS.get(fault.pointer):
        return code
    if fault.pointer.startswith("/machine_detection"):
        return INVALID_MACHINE_DETECTION
    if fault.pointer.endswith("method"):
        return _METHOD
    return _OTHER_URL if fault.code.startswith("url_") else TOLD[errors.InvalidRequest].code
