"""Translates the exceptions of a transport to TwilioError.

The class of an exception shows whether the request may have been sent (tests/api/test_classification.py). The transport raises
ConnectError, ConnectTimeout, PoolTimeout, UnsupportedProtocol and InvalidURL only before it writes the first byte. It raises
ProxyError only when a proxy refuses the tunnel. Any other error may come after the first byte.
"""

import httpx
import structlog

from app.twilio.errors import TwilioError, TwilioNotSent, TwilioOutcomeUnknown, TwilioTimeout
from app.twilio.send_gate import SendGate

logger = structlog.stdlib.get_logger(__name__)

_ERRORS_BEFORE_SENDING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


class ErrorTranslation:
    """A context manager that turns exceptions of the transport into TwilioNotSent, TwilioTimeout or TwilioOutcomeUnknown.

    Raises TwilioNotSent only if nothing was sent. Either the exception's class proves this, or the SendGate, which must allow
    the first write of a request, has not allowed it.
    """

    def __init__(self, gate: SendGate | None = None) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, TwilioError) or not isinstance(error, Exception):
            return
        expected = isinstance(error, httpx.RequestError | httpx.StreamError | httpx.InvalidURL | TimeoutError)
        if isinstance(error, _ERRORS_BEFORE_SENDING) or (self._gate is not None and self._gate.close()):
            if not expected:
                logger.error("request_not_made", exc_info=error)
            raise TwilioNotSent(_reason_of(error)) from error
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            raise TwilioTimeout(_reason_of(error)) from error
        if expected:
            raise TwilioOutcomeUnknown(_reason_of(error)) from error


def _reason_of(error: Exception) -> str:
    """Returns the error's class in snake_case, such as `read_timeout`. Returns `deadline` for a TimeoutError of Python."""
    name = "Deadline" if isinstance(error, TimeoutError) else type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
