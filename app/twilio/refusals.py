"""Say what an answer proves that is not a 2xx. The one place that believes a status of Twilio's.

A status alone proves nothing: a proxy on the way, or a stray answer, can say 400 or 429 about a request that Twilio has
processed. Only an answer in Twilio's shape (`Answer.is_twilios`) is a refusal.
"""

from typing import Any

import httpx

from app.security.redaction import Secrets, redact
from app.twilio.errors import (
    Answer,
    TwilioCredentialRejected,
    TwilioError,
    TwilioNotFound,
    TwilioOutcomeUnknown,
    TwilioRejected,
    TwilioThrottled,
    TwilioWrongState,
)

_MESSAGE_LIMIT = 1000
_REQUEST_ID_LIMIT = 64
_CREDENTIALS_CODE = 20003
_WRONG_STATE_CODE = 21220


def read_answer(response: httpx.Response, document: Any, secrets: Secrets) -> Answer:
    """An error body and the headers worth keeping, without secrets."""
    fields = document if isinstance(document, dict) else {}
    code, message, more_info = fields.get("code"), fields.get("message"), fields.get("more_info")
    return Answer(
        status=response.status_code,
        code=code if isinstance(code, int) and not isinstance(code, bool) else None,
        message=redact(message, secrets)[:_MESSAGE_LIMIT] if isinstance(message, str) else None,
        more_info=redact(more_info, secrets)[:_MESSAGE_LIMIT] if isinstance(more_info, str) else None,
        request_id=redact(response.headers.get("Twilio-Request-Id", ""), secrets)[:_REQUEST_ID_LIMIT] or None,
        retry_after_s=_seconds(response.headers.get("Retry-After")),
    )


def refusal(answer: Answer) -> TwilioError:
    """The error for an answer that is not a 2xx: a TwilioAnswered proves that the request was not processed."""
    status = answer.status
    # A 408 is sent by proxies (and by Twilio, for recordings) when the work took too long: it proves nothing.
    if not answer.is_twilios or not 400 <= status < 500 or status == httpx.codes.REQUEST_TIMEOUT:
        return TwilioOutcomeUnknown(f"status_{status}", answer)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return TwilioThrottled("throttled", answer)
    if answer.code == _WRONG_STATE_CODE:
        return TwilioWrongState("rejected", answer)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) or answer.code == _CREDENTIALS_CODE:
        return TwilioCredentialRejected(answer)
    if status == httpx.codes.NOT_FOUND:
        return TwilioNotFound("rejected", answer)
    return TwilioRejected("rejected", answer)


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds; the date form (RFC 9110 §10.2.3) is not worth a clock comparison here."""
    return float(value[:9]) if value is not None and value.isascii() and value.isdigit() else None
