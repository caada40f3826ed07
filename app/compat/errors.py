"""Renders errors in Twilio's format: https://www.twilio.com/docs/usage/twilios-response#response-formats-exceptions

A 5xx or 429 means that the request started no call, as in Callgate's API under /v1. If Callgate does not know whether the
request started a call, the status is 409, which no SDK retries.
"""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi.responses import JSONResponse
from starlette.responses import Response

from app.compat.error_codes import ERROR_CODES, UNKNOWN_OUTCOME_CODE, ErrorCode, twilio_code_for
from app.compat.parameter_names import field_error_message, with_twilio_names
from app.errors import (
    CallgateError,
    CallNotFound,
    InvalidRequest,
    RouteNotFound,
    SubresourceNotFound,
    Unauthorized,
    UpstreamRejected,
    WrongCallState,
)
from app.http.problems import PROBLEM_TYPE_PREFIX
from app.setting_values import TWILIO_API_VERSION

CALL_ID_HEADER = "Callgate-Call-Id"
_CREATION_PATH = re.compile(rf"/{TWILIO_API_VERSION}/Accounts/[^/]+/Calls(\.json)?")
_FIRST_CALLGATE_CODE = 900_000
_MAX_FIELD_ERRORS = 20
_ERRORS_WITH_TWILIOS_ANSWER = (SubresourceNotFound, UpstreamRejected, WrongCallState)
_UNKNOWN_OUTCOME_MESSAGE = (
    "It is not known yet whether a call was started. Callgate is finding out; {where} shows the result. Do not send the "
    "request again without the same Idempotency-Key: it could place a second call."
)
_UNAUTHORIZED_MESSAGE = (
    "The API key is missing, unknown, expired or revoked. Send the account's SID as the user name and a Callgate API key as "
    "the password."
)


class TwilioErrorRenderer:
    def is_call_creation(self, method: str, path: str) -> bool:
        return method == "POST" and _CREATION_PATH.fullmatch(path) is not None

    def render(self, error: CallgateError, *, method: str, path: str, state: Mapping[str, Any]) -> Response:
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Basic realm="Callgate"'
        if error.call_id is not None:
            headers[CALL_ID_HEADER] = str(error.call_id)
        error_code = _error_code(error)
        upstream = error.upstream if isinstance(error, _ERRORS_WITH_TWILIOS_ANSWER) else None
        message = (upstream and upstream.message) or _message(error, path)
        more_info = (upstream and upstream.more_info) or _more_info(error, error_code.code)
        return _error_response(error_code, message, more_info, headers)

    def render_unknown_outcome(self, call_id: UUID, *, request_id: str) -> Response:
        return _error_response(
            ErrorCode(409, UNKNOWN_OUTCOME_CODE),
            _UNKNOWN_OUTCOME_MESSAGE.format(where=f"GET /v1/calls/{call_id}"),
            f"{PROBLEM_TYPE_PREFIX}unknown",
            {CALL_ID_HEADER: str(call_id)},
        )


def _error_code(error: CallgateError) -> ErrorCode:
    """Returns the status and code of an error. If Twilio refused the request, returns those of Twilio's answer."""
    error_code = ERROR_CODES[type(error)]
    if isinstance(error, _ERRORS_WITH_TWILIOS_ANSWER) and error.upstream and error.upstream.status:
        return ErrorCode(error.upstream.status, error.upstream.code or error.upstream.status)
    if isinstance(error, InvalidRequest) and error.field_errors:
        return ErrorCode(error_code.status, twilio_code_for(error.field_errors[0]))
    return error_code


def _message(error: CallgateError, path: str) -> str:
    if isinstance(error, CallNotFound | RouteNotFound | SubresourceNotFound):
        return f"The requested resource {path} was not found"
    if error.field_errors:
        return " ".join(field_error_message(field_error) for field_error in error.field_errors[:_MAX_FIELD_ERRORS])
    if isinstance(error, Unauthorized):
        return _UNAUTHORIZED_MESSAGE if error.detail == error.default_detail else error.detail
    if isinstance(error, UpstreamRejected):
        return "Twilio refused the request without a reason."
    return with_twilio_names(error.detail.replace("`call_id`", f"the header {CALL_ID_HEADER}"))


def _more_info(error: CallgateError, code: int) -> str:
    return f"https://www.twilio.com/docs/errors/{code}" if code < _FIRST_CALLGATE_CODE else PROBLEM_TYPE_PREFIX + error.slug


def _error_response(error_code: ErrorCode, message: str, more_info: str, headers: dict[str, str]) -> Response:
    body: dict[str, Any] = {"code": error_code.code, "message": message, "more_info": more_info, "status": error_code.status}
    return JSONResponse(body, error_code.status, headers)
