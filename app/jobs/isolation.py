"""Work on a claimed batch so that one call's trouble is not another's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from app.calls.models import Call
from app.errors import DatabaseUnavailable

logger = structlog.stdlib.get_logger(__name__)


async def run_isolated(calls: Sequence[Call], work: Callable[[Call], Awaitable[None]], *, event: str) -> None:
    """All at once. Whatever goes wrong with one is logged as `event`, and it is claimed again when its lease ends."""

    async def guarded(call: Call) -> None:
        try:
            await work(call)
        except DatabaseUnavailable:
            pass
        except Exception:
            logger.exception(event, call_id=str(call.id))

    async with asyncio.TaskGroup() as working:
        for call in calls:
            working.create_task(guarded(call))
