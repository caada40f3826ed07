"""Decides whether an answer with a status other than 2xx proves that Twilio did not process the request.

No other module interprets Twilio's status codes.

A status alone proves nothing: a proxy may answer with 400 or 429 although Twilio processed the request. Only an answer in
Twilio's error format (`ErrorAnswer.is_from_twilio`) can prove that Twilio refused the request.
"""

from typing import Any

import httpx

from app.security.redaction import SecretRedactor
from app.twilio.errors import (
    ErrorAnswer,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotFound,
    TwilioOutcomeUnknown,
    TwilioRejected,
    TwilioThrottled,
    TwilioWrongState,
)
from app.twilio.secrets import redact_document

_MAX_MESSAGE_LENGTH = 1000
_MAX_REQUEST_ID_LENGTH = 64
CREDENTIALS_REJECTED_CODE = 20003
WRONG_STATE_CODE = 21220
# Codes of temporary refusals: too many calls are under way (10004), or the account's queue at Twilio is full (22005).
ACCOUNT_AT_CAPACITY_CODES = frozenset({10004, 22005})


def read_error_answer(response: httpx.Response, document: Any, secrets: SecretRedactor) -> ErrorAnswer:
    """Returns the parts of an error answer that Callgate keeps, with secrets removed. `document` is the parsed body."""
    fields = document if isinstance(document, dict) else {}
    code = fields.get("code")
    return ErrorAnswer(
        status=response.status_code,
        code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        message=_redacted(fields.get("message"), secrets, _MAX_MESSAGE_LENGTH),
        more_info=_redacted(fields.get("more_info"), secrets, _MAX_MESSAGE_LENGTH),
        request_id=_redacted(response.headers.get("Twilio-Request-Id"), secrets, _MAX_REQUEST_ID_LENGTH) or None,
        retry_after_s=_parse_retry_after(response.headers.get("Retry-After")),
    )


def error_for_answer(answer: ErrorAnswer) -> TwilioError:
    """Returns the error for an answer that is not a 2xx. A TwilioNotProcessed proves that the request was not processed."""
    status = answer.status
    # Proxies (and Twilio, for recordings) send a 408 when the work took too long: it proves nothing.
    if not answer.is_from_twilio or not 400 <= status < 500 or status == httpx.codes.REQUEST_TIMEOUT:
        return TwilioOutcomeUnknown(f"status_{status}", answer)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return TwilioThrottled("throttled", answer)
    if answer.code == WRONG_STATE_CODE:
        return TwilioWrongState("rejected", answer)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) or answer.code == CREDENTIALS_REJECTED_CODE:
        return TwilioCredentialRejected(answer)
    if status == httpx.codes.NOT_FOUND:
        return TwilioNotFound("rejected", answer)
    return TwilioRejected("rejected", answer)


def _redacted(text: Any, secrets: SecretRedactor, max_length: int) -> str | None:
    """Returns the text without secrets, cut after `max_length` characters; None if it is no text."""
    return str(redact_document(text, secrets))[:max_length] if isinstance(text, str) else None


def _parse_retry_after(value: str | None) -> float | None:
    """Returns the seconds in a Retry-After header. Returns None if it is missing or contains a date (RFC 9110 §10.2.3).

    A date is ignored because its meaning depends on the clocks of both sides.
    """
    return float(value[:9]) if value is not None and value.isascii() and value.isdigit() else None
