"""Handles errors in jobs: an error with one call affects no other call.

This module does not log an outage of Postgres, because app.database logs it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from app.calls.models import Call
from app.errors import DatabaseUnavailable

logger = structlog.stdlib.get_logger(__name__)


async def run_for_each_call(calls: Sequence[Call], work: Callable[[Call], Awaitable[None]], *, event: str) -> None:
    """Runs `work` for all calls concurrently. An error of one call is logged with the name `event` and affects no other call.

    A worker takes the call with the error again when the call's lease ends. A lease reserves a call for one worker. This
    function does not log a DatabaseUnavailable, because app.database has logged it.
    """

    async def guarded(call: Call) -> None:
        with log_and_suppress_errors(event, call_id=str(call.id)):
            await work(call)

    async with asyncio.TaskGroup() as working:
        for call in calls:
            working.create_task(guarded(call))


@contextmanager
def log_and_suppress_errors(event: str, **fields: object) -> Iterator[None]:
    """Logs an exception of the block as `event` with `fields` instead of raising it.

    Suppresses DatabaseUnavailable without a log line, because app.database has logged it.
    """
    try:
        yield
    except Exception as error:
        for cause in _errors_to_log(error):
            logger.error(event, exc_info=cause, **fields)


@contextmanager
def suppress_lock_timeout() -> Iterator[None]:
    """Suppresses the DatabaseUnavailable of a statement that has waited too long for a lock. app.database has logged it."""
    try:
        yield
    except DatabaseUnavailable as error:
        if not error.is_lock_timeout:
            raise


def _errors_to_log(error: Exception) -> list[Exception]:
    """Returns the errors to log: `error` itself, or the errors in it if it is an ExceptionGroup (as raised by a TaskGroup).

    Leaves out each DatabaseUnavailable, because app.database has logged it.
    """
    if isinstance(error, ExceptionGroup):
        return [cause for each in error.exceptions for cause in _errors_to_log(each)]
    return [] if isinstance(error, DatabaseUnavailable) else [error]
