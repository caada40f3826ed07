"""Logs, instead of raising, the exceptions of code that runs after the commit of an outcome.

Such an exception must not change the answer to the client.
"""

import structlog

from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.errors import DatabaseUnavailable

logger = structlog.stdlib.get_logger(__name__)


class ExceptionLogger:
    """Context manager that logs an Exception as the log event `event` instead of raising it. Other BaseExceptions are raised.

    It is a class, because a generator-based context manager would take five times as long, and each call needs several.
    """

    __slots__ = ("_call", "_event")

    def __init__(self, event: str, call: Call | NewCall) -> None:
        self._event = event
        self._call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        match error:
            case DatabaseUnavailable() | TimeoutError():
                logger.warning(self._event, call_id=str(self._call.id), error=type(error).__name__)
            case Exception():
                logger.error(self._event, call_id=str(self._call.id), exc_info=error)
            case _:
                return False
        return True
