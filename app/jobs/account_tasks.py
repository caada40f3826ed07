"""Runs the work of a job in one task for each Twilio account, so that an account that is slow delays no other account.

A step of the job starts tasks and does not wait until they end. While the task of an account runs, further steps take no work
of that account.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from app.calls.models import Call
from app.jobs.isolation import log_and_suppress_errors, run_for_each_call

MAX_RUNNING_TASKS = 100
"""While this many tasks or more run, a step claims no work. The tasks of one step may exceed this number."""
_MAX_LOGGED_CALLS = 20


class _CallOfAccount(Protocol):
    @property
    def id(self) -> UUID: ...
    @property
    def account_id(self) -> UUID: ...


CallT = TypeVar("CallT", bound=_CallOfAccount)


class AccountTaskGroup:
    """Starts asyncio tasks for one job of the worker, one for each Twilio account, and keeps a list of those that run now."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[None], UUID] = {}
        self.wake = asyncio.Event()
        """Is set when a task has ended: more work of its account may be due."""
        self.is_stopping = False
        """Whether the worker stops. Then a task with much work should begin no more of it. Other workers do the rest."""

    @property
    def is_full(self) -> bool:
        """Whether so many tasks run that the job must start no more. When a task ends, `wake` is set."""
        return len(self._running) >= MAX_RUNNING_TASKS

    def busy_accounts(self) -> list[UUID]:
        """Returns the ids of the accounts that have a task."""
        return list(self._running.values())

    def start_task_per_account(
        self, calls: Iterable[CallT], work: Callable[[list[CallT]], Coroutine[Any, Any, None]], *, event: str
    ) -> None:
        """Starts one task for each account in `calls`. The task runs `work` once, with all calls of the account.

        An error of the task is logged with the event name `event`, and not raised.
        """
        by_account: defaultdict[UUID, list[CallT]] = defaultdict(list)
        for call in calls:
            by_account[call.account_id].append(call)
        for account_id, of_account in by_account.items():
            task = asyncio.create_task(_run_and_log_errors(of_account, work, event))
            self._running[task] = account_id
            task.add_done_callback(self._on_end)

    def start_for_each_call(self, calls: Iterable[Call], work: Callable[[Call], Awaitable[None]], *, event: str) -> None:
        """Starts one task for each account in `calls`. The task runs `work` for each call of the account, concurrently.

        An error of one call is logged with the event name `event`, and does not affect the other calls.
        """
        self.start_task_per_account(calls, partial(run_for_each_call, work=work, event=event), event=event)

    async def drain(self) -> None:
        """Waits until no task runs any more."""
        while self._running:
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        """Sets `is_stopping`, so that the tasks begin no more work. Then waits until all tasks have ended."""
        self.is_stopping = True
        await self.drain()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self.wake.set()


async def _run_and_log_errors(calls: list[CallT], work: Callable[[list[CallT]], Coroutine[Any, Any, None]], event: str) -> None:
    """Runs `work` with the calls. Logs an error with the event name `event`, and does not raise it.

    After an error, a worker takes the calls again when their leases end. A lease reserves a call for one worker.
    """
    with log_and_suppress_errors(event, call_ids=[str(call.id) for call in calls[:_MAX_LOGGED_CALLS]], calls=len(calls)):
        await work(calls)
