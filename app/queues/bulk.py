"""Creates many scheduled calls of one queue. Independent of HTTP.

Each line is one creation, as `CreationService.create` makes it. Creations that are under way at the same time are written in
one statement.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import structlog

from app.calls.creation.service import Creation, CreationService
from app.errors import CallgateError, FieldError, InternalError, InvalidRequest
from app.http.read_limit import ReadLimit
from app.observability.tracing import TimedSpan, stop_timing
from app.tenants.caller import Caller

logger = structlog.stdlib.get_logger(__name__)

# Lines under way: two statements' worth, so that one is prepared while the other is written.
_MAX_UNDER_WAY = 500
# Lines that are prepared without a pause, and the pause relative to the work before it: creations of other tenants run then.
_PREPARED_AT_ONCE = 2
_PAUSE_FACTOR = 0.5


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a bulk request: a body and its key, or what is wrong with it."""

    number: int
    key: str | None
    body: Mapping[str, Any] | CallgateError


@dataclass(frozen=True, slots=True)
class AnsweredLine:
    number: int
    key: str | None
    result: Creation | CallgateError


@dataclass(frozen=True, slots=True)
class BulkService:
    creation: CreationService
    limit: ReadLimit

    def slot(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Waits until the tenant may add calls. Raises Overloaded."""
        return self.limit.slot(caller.tenant_id)

    async def add(self, caller: Caller, queue: str, lines: Iterable[Line]) -> AsyncIterator[Sequence[AnsweredLine]]:
        """Creates the calls and yields the lines in order, some at a time, once they are committed.

        If the iteration ends early, the calls under way are created all the same.
        """
        under_way = deque[asyncio.Task[AnsweredLine]]()
        try:
            for position, line in enumerate(lines, start=1):
                under_way.append(asyncio.create_task(self._create(caller, queue, line)))
                if position % _PREPARED_AT_ONCE == 0:
                    began = time.thread_time()
                    await asyncio.sleep(0)  # They are prepared now.
                    await asyncio.sleep(_PAUSE_FACTOR * (time.thread_time() - began))
                if len(under_way) >= _MAX_UNDER_WAY:
                    yield await _take_done(under_way)
            while under_way:
                yield await _take_done(under_way)
        finally:
            if under_way:
                await asyncio.shield(asyncio.wait(under_way))

    async def _create(self, caller: Caller, queue: str, line: Line) -> AnsweredLine:
        stop_timing()
        return AnsweredLine(line.number, line.key, await self._result(caller, queue, line))

    async def _result(self, caller: Caller, queue: str, line: Line) -> Creation | CallgateError:
        if isinstance(line.body, CallgateError):
            return line.body
        if line.body.get("queue", queue) != queue:
            fault = FieldError("/queue", "another_queue", f"must be {queue}, as in the path, or be left out")
            return InvalidRequest(field_errors=(fault,))
        try:
            return await self.creation.create(caller, {**line.body, "queue": queue}, line.key)
        except CallgateError as error:
            return error
        except Exception:
            logger.exception("unexpected_error", line=line.number)
            return InternalError()


async def _take_done(under_way: deque[asyncio.Task[AnsweredLine]]) -> list[AnsweredLine]:
    """Waits for the first line, and removes it and all lines after it that are answered, up to the first that is not."""
    with TimedSpan("database"):
        answered = [await under_way.popleft()]
    while under_way and under_way[0].done():
        answered.append(await under_way.popleft())
    return answered
