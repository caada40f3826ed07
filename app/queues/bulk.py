"""Creates many scheduled calls of one queue. Does not import FastAPI.

Each line of a bulk request becomes one call, which `CreationService.create` creates. Calls that are created at the same time
are written to the database together, in one SQL statement.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import structlog

from app.calls.creation.service import CreationResult, CreationService
from app.errors import CallgateError, FieldError, InternalError, InvalidRequest
from app.http.concurrency import ConcurrencyLimit
from app.observability.tracing import TimedSpan, exclude_task_from_timing
from app.tenants.caller import Caller

logger = structlog.stdlib.get_logger(__name__)

# Lines that are being created at the same time: enough for two statements, so that one is prepared while the other runs.
_MAX_CONCURRENT_LINES = 500
# Lines that are prepared between two pauses, and the length of a pause relative to the CPU time before it. Creations of other
# tenants run during a pause.
_LINES_BETWEEN_PAUSES = 2
_PAUSE_PER_CPU_TIME = 0.5


@dataclass(frozen=True, slots=True)
class BulkLine:
    """A line of a bulk request, from which one call is created.

    `key` is the call's idempotency key, and `body` has the call's parameters. If the line is not valid, `body` is the error
    instead.
    """

    number: int
    key: str | None
    body: Mapping[str, Any] | CallgateError


@dataclass(frozen=True, slots=True)
class BulkLineResult:
    number: int
    key: str | None
    result: CreationResult | CallgateError


@dataclass(frozen=True, slots=True)
class BulkService:
    creation: CreationService
    body_limit: ConcurrencyLimit
    creation_limit: ConcurrencyLimit

    def body_slot(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Returns a context manager that limits how many bodies of bulk requests are in memory at the same time.

        Enter it before the body is read, and leave it after `creation_slot` is entered. Entering it waits until there is room.
        Raises Overloaded if that takes too long.
        """
        return self.body_limit.admit_request(caller.tenant_id)

    def creation_slot(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Returns a context manager in which the calls of one bulk request are created.

        It limits how many bulk requests run at the same time, in the process and for each tenant. Enter it after the body has
        arrived, so that a client that sends slowly does not delay others. Entering it waits until the request may run. Raises
        Overloaded if that takes too long.
        """
        return self.creation_limit.admit_request(caller.tenant_id)

    async def create_calls(
        self, caller: Caller, queue: str, lines: Iterable[BulkLine]
    ) -> AsyncIterator[Sequence[BulkLineResult]]:
        """Creates a call for each line. Yields groups of results (the call or the error), in the order of the lines.

        The result of a line is yielded after its call is committed. If the iteration stops early, calls whose creation has
        begun are still created.
        """
        under_way = deque[asyncio.Task[BulkLineResult]]()
        try:
            for position, line in enumerate(lines, start=1):
                under_way.append(asyncio.create_task(self._create(caller, queue, line)))
                if position % _LINES_BETWEEN_PAUSES == 0:
                    began = time.thread_time()
                    await asyncio.sleep(0)  # The new tasks prepare their lines now.
                    await asyncio.sleep(_PAUSE_PER_CPU_TIME * (time.thread_time() - began))
                if len(under_way) >= _MAX_CONCURRENT_LINES:
                    yield await _take_finished_results(under_way)
            while under_way:
                yield await _take_finished_results(under_way)
        finally:
            if under_way:
                await asyncio.shield(asyncio.wait(under_way))

    async def _create(self, caller: Caller, queue: str, line: BulkLine) -> BulkLineResult:
        exclude_task_from_timing()
        return BulkLineResult(line.number, line.key, await self._create_call_or_error(caller, queue, line))

    async def _create_call_or_error(self, caller: Caller, queue: str, line: BulkLine) -> CreationResult | CallgateError:
        if isinstance(line.body, CallgateError):
            return line.body
        try:
            if line.body.get("queue", queue) != queue:
                field_error = FieldError("/queue", "another_queue", f"must be {queue}, as in the path, or be left out")
                refusal = InvalidRequest(field_errors=(field_error,))
                return await self.creation.replay_or_raise(caller, line.body, line.key, refusal)
            return await self.creation.create(caller, {**line.body, "queue": queue}, line.key)
        except CallgateError as error:
            return error
        except Exception:
            logger.exception("unexpected_error", line=line.number)
            return InternalError()


async def _take_finished_results(under_way: deque[asyncio.Task[BulkLineResult]]) -> list[BulkLineResult]:
    """Waits until the first task in `under_way` is done. Returns its result, and those of the finished tasks directly after it.

    Removes these tasks from `under_way`.
    """
    with TimedSpan("database"):
        answered = [await under_way.popleft()]
    while under_way and under_way[0].done():
        answered.append(await under_way.popleft())
    return answered
