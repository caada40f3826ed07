"""Maps Callgate's errors to Twilio's error codes: https://www.twilio.com/docs/api/errors

If Twilio has no code for an error, the error gets a code from 900001 on, which Twilio does not use. docs/errors.md has the
table.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from app import errors
from app.errors import CallgateError, FieldError
from app.twilio.refusals import CREDENTIALS_REJECTED_CODE, WRONG_STATE_CODE

UNKNOWN_OUTCOME_CODE = 900001
INVALID_EVENT_CODE = 21626
INVALID_RECORDING_EVENT_CODE = 13621
INVALID_MACHINE_DETECTION_CODE = 21234


class ErrorCode(NamedTuple):
    """The HTTP status of an error, and the code in its body."""

    status: int
    code: int


ERROR_CODES: Mapping[type[CallgateError], ErrorCode] = {
    errors.MalformedRequest: ErrorCode(400, 20422),
    errors.MalformedBody: ErrorCode(400, 20422),
    errors.Unauthorized: ErrorCode(401, CREDENTIALS_REJECTED_CODE),
    errors.TenantSuspended: ErrorCode(403, 20005),
    errors.ScopeRequired: ErrorCode(403, 20403),
    errors.TenantKeyRequired: ErrorCode(403, 20403),
    errors.OperatorKeyRequired: ErrorCode(403, 20403),
    errors.TooManyAttempts: ErrorCode(429, 20429),
    errors.CallbackForged: ErrorCode(403, 20403),
    errors.OriginRefused: ErrorCode(403, 20403),
    errors.RouteNotFound: ErrorCode(404, 20404),
    errors.CallNotFound: ErrorCode(404, 20404),
    errors.TenantNotFound: ErrorCode(404, 20404),
    errors.ResourceNotFound: ErrorCode(404, 20404),
    errors.SubresourceNotFound: ErrorCode(404, 20404),
    errors.DeliveryNotFound: ErrorCode(404, 20404),
    errors.QueueNotFound: ErrorCode(404, 20404),
    errors.MethodNotAllowed: ErrorCode(405, 20004),
    errors.NotAcceptable: ErrorCode(406, 900006),
    errors.RequestTimeout: ErrorCode(408, 900011),
    errors.NoUsableCredentials: ErrorCode(409, 900005),
    errors.AlreadyExists: ErrorCode(409, 20409),
    errors.PreconditionFailed: ErrorCode(412, 20412),
    errors.WrongCallState: ErrorCode(400, WRONG_STATE_CODE),
    errors.BodyTooLarge: ErrorCode(413, 900007),
    errors.UnsupportedMediaType: ErrorCode(415, 900008),
    errors.InvalidRequest: ErrorCode(400, 20422),
    errors.HeadTooLarge: ErrorCode(431, 900012),
    errors.CallPending: ErrorCode(409, 900002),
    errors.IdempotencyKeyReused: ErrorCode(422, 900003),
    errors.UpstreamRejected: ErrorCode(400, 20422),
    errors.UpstreamCredentialsRejected: ErrorCode(502, 900009),
    errors.UpstreamThrottled: ErrorCode(429, 20429),
    errors.UpstreamUnreachable: ErrorCode(503, 20503),
    errors.ActionUnknown: ErrorCode(409, 900010),
    errors.CallNotFoundAtTwilio: ErrorCode(409, 900004),
    errors.RingByDeadlinePassed: ErrorCode(409, 900013),
    errors.CanceledBeforeDial: ErrorCode(409, 900014),
    errors.InternalError: ErrorCode(500, 20500),
    errors.DatabaseUnavailable: ErrorCode(503, 20503),
    errors.WorkloadKeysUnavailable: ErrorCode(503, 20503),
    errors.Overloaded: ErrorCode(503, 20503),
    errors.PaceExceeded: ErrorCode(429, 20429),
    errors.TooManyConnections: ErrorCode(503, 20503),
    errors.ShuttingDown: ErrorCode(503, 20503),
}

# Twilio has one code for each invalid parameter and, for some parameters, other codes for certain errors.
_CODES_BY_PARAMETER_AND_ERROR: Mapping[tuple[str, str], int] = {
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
_CODES_BY_PARAMETER: Mapping[str, int] = {
    "/to": 21211,
    "/from": 21212,
    "/url": 21205,
    "/send_digits": 21206,
    "/timeout": 21208,
    "/application_sid": 21218,
    "/sip_auth_username": 21222,
    "/sip_auth_password": 21224,
    "/status_callback_event": INVALID_EVENT_CODE,
    "/recording_status_callback_event": INVALID_RECORDING_EVENT_CODE,
    "?PageSize": 20007,
}
_LIST_INDEX = re.compile(r"/[0-9]+\Z")
_UNKNOWN_PARAMETER_CODE = 20001
_INVALID_METHOD_CODE = 21209
_INVALID_URL_CODE = 21200


def twilio_code_for(error: FieldError) -> int:
    """Returns Twilio's code for an error in a parameter or in one item of a list parameter."""
    error = replace(error, pointer=_LIST_INDEX.sub("", error.pointer))
    if error.code in ("unknown_member", "unknown_parameter", "page_token_missing"):
        return _UNKNOWN_PARAMETER_CODE
    if code := _CODES_BY_PARAMETER_AND_ERROR.get((error.pointer, error.code)) or _CODES_BY_PARAMETER.get(error.pointer):
        return code
    if error.pointer.startswith("/machine_detection"):
        return INVALID_MACHINE_DETECTION_CODE
    if error.pointer.endswith("method"):
        return _INVALID_METHOD_CODE
    return _INVALID_URL_CODE if error.code.startswith("url_") else ERROR_CODES[errors.InvalidRequest].code
