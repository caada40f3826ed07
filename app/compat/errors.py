"""Errors as Twilio writes them: HTTP status, integer code, message, more_info.

https://www.twilio.com/docs/usage/twilios-response#response-formats-exceptions. Our own promise holds here, too: a 5xx or 429
means that the request started no call, and what is not known is a 409, which no SDK repeats.
"""

import re
from typing import Any
from uuid import UUID

from fastapi.responses import JSONResponse
from starlette.responses import Response

from app.compat.error_codes import TOLD, UNKNOWN_OUTCOME, Told, code_of
from app.compat.wording import in_twilios_names, sentence
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
from app.http.problems import TYPE_PREFIX

CALL_ID_HEADER = "Callgate-Call-Id"
_CREATION = re.compile(r"/2010-04-01/Accounts/[^/]+/Calls(\.json)?")
_OUR_CODES = 900_000
_MAX_FIELD_ERRORS = 20
_IN_TWILIOS_WORDS = (SubresourceNotFound, UpstreamRejected, WrongCallState)
_UNKNOWN = (
    "Whether a call was started is not known yet; Callgate finds out, and {where} shows it. Do not send the request "
    "again without the same Idempotency-Key: a second phone could ring."
)
_UNAUTHORIZED = (
    "Send the account's SID as the user and a Callgate API key as the password; the key is missing, unknown, expired "
    "or revoked."
)


class TwilioErrorRenderer:
    def is_creation(self, method: str, path: str) -> bool:
        return method == "POST" and _CREATION.fullmatch(path) is not None

    def render(self, error: CallgateError, *, method: str, path: str, request_id: str) -> Response:
        headers = {}
        if error.after_s is not None:
            headers["Retry-After"] = str(error.after_s)
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Basic realm="Callgate"'
        if error.call_id is not None:
            headers[CALL_ID_HEADER] = str(error.call_id)
        told = _told(error)
        upstream = error.upstream if isinstance(error, _IN_TWILIOS_WORDS) else None
        message = (upstream and upstream.message) or _message(error, path)
        more_info = (upstream and upstream.more_info) or _more_info(error, told.code)
        return _answer(told, message, more_info, headers)

    def render_unknown(self, call_id: UUID | None, *, request_id: str) -> Response:
        headers = {} if call_id is None else {CALL_ID_HEADER: str(call_id)}
        where = f"GET /v1/calls/{call_id}" if call_id else "GET /v1/calls?execution=unknown"
        return _answer(Told(409, UNKNOWN_OUTCOME), _UNKNOWN.format(where=where), f"{TYPE_PREFIX}unknown", headers)


def _told(error: CallgateError) -> Told:
    """What Twilio refused is told in its own numbers."""
    told = TOLD[type(error)]
    if isinstance(error, _IN_TWILIOS_WORDS) and error.upstream and error.upstream.status:
        return Told(error.upstream.status, error.upstream.code or error.upstream.status)
    if isinstance(error, InvalidRequest) and error.field_errors:
        return Told(told.status, code_of(error.field_errors[0]))
    return told


def _message(error: CallgateError, path: str) -> str:
    if isinstance(error, CallNotFound | RouteNotFound | SubresourceNotFound):
        return f"The requested resource {path} was not found"
    if error.field_errors:
        return " ".join(sentence(fault) for fault in error.field_errors[:_MAX_FIELD_ERRORS])
    if isinstance(error, Unauthorized):
        return _UNAUTHORIZED
    if isinstance(error, UpstreamRejected):
        return "Twilio refused it and gave no reason."
    return in_twilios_names(error.detail.replace("`call_id`", f"the header {CALL_ID_HEADER}"))


def _more_info(error: CallgateError, code: int) -> str:
    return f"https://www.twilio.com/docs/errors/{code}" if code < _OUR_CODES else TYPE_PREFIX + error.slug


def _answer(told: Told, message: str, more_info: str, headers: dict[str, str]) -> Response:
    body: dict[str, Any] = {"code": told.code, "message": message, "more_info": more_info, "status": told.status}
    return JSONResponse(body, told.status, headers)
