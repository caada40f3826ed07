"""Dials scheduled calls as soon as their time has come and the dialling limits allow another call.

Also ends calls that were not dialled by their `ring_by`, the time until which they may begin to ring.
"""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from app.calls.creation.granted import GrantedCallDialer
from app.calls.creation.grants.service import GrantRound, grant_calls
from app.calls.creation.grants.store import DialGrant, accounts_with_scheduled_calls
from app.calls.creation.scheduled.store import end_expired_calls
from app.calls.settlement import Settlement
from app.clock import monotonic_seconds
from app.database.engine import Database
from app.errors import DatabaseUnavailable
from app.scheduling.grant_counters import GrantCounters
from app.scheduling.schedule import PRIORITIES

logger = structlog.stdlib.get_logger(__name__)

_EXPIRED_BATCH_SIZE = 500


@dataclass
class Dialer:
    """Grants scheduled calls (takes the right to dial them) and dials them: at most `max_in_flight` at the same time."""

    database: Database
    call_dialer: GrantedCallDialer
    settlement: Settlement
    max_in_flight: int
    counters: GrantCounters = field(default_factory=GrantCounters)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _dial_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _last_account_id: UUID | None = None
    _wake_timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        # Series start at 0, because Prometheus shows no increase from a missing series to 1.
        for priority in PRIORITIES:
            self.settlement.metrics.calls.grants.labels(priority)

    async def step(self) -> bool:
        """Ends expired calls. Then grants (takes the right to dial) at most one batch of calls of each account.

        Starts to dial the granted calls, and does not wait for the outcomes. Returns whether the next step should follow
        without a pause: more calls may have expired, or may be granted now.
        """
        is_last = await self._end_expired_calls() < _EXPIRED_BATCH_SIZE
        waits = []
        waiting = await accounts_with_scheduled_calls(self.database)
        # Begin after the account that was served last, so that the first one cannot use up `max_in_flight` in every step.
        for account_id in sorted(
            waiting, key=lambda each: (self._last_account_id is not None and each <= self._last_account_id, each)
        ):
            if waiting[account_id] > 0:
                waits.append(waiting[account_id])
                continue
            if (free := self.max_in_flight - len(self._dial_tasks)) <= 0:
                break
            self._last_account_id = account_id
            granted = await self._grant_calls_of_account(account_id, free)
            is_last = is_last and granted.is_last
            if granted.wait_s is not None:
                waits.append(granted.wait_s)
        self._schedule_next_step(min(waits, default=None))
        return not is_last and len(self._dial_tasks) < self.max_in_flight

    async def _grant_calls_of_account(self, account_id: UUID, limit: int) -> GrantRound:
        """Grants (takes the right to dial) at most `limit` calls of one account, starts to dial them, and returns the grants.

        Raises DatabaseUnavailable. Any other error is only logged, so that it does not affect other accounts; the result then
        has no grants.
        """
        began = monotonic_seconds()
        try:
            await self.counters.load()
            granted = await grant_calls(
                self.database, account_id, limit=limit, counters=self.counters, put_back=self.call_dialer.put_back_granted_call
            )
            if granted.grants:
                await self.counters.save()
        except DatabaseUnavailable:
            raise
        except OSError as error:
            # Nothing is granted: without the counters it is unknown what other workers have granted.
            logger.error("grant_counters_unreadable", account_id=str(account_id), error=type(error).__name__, errno=error.errno)
            return GrantRound([], is_last=True)
        except Exception:
            logger.exception("grant_failed", account_id=str(account_id))
            return GrantRound([], is_last=True)
        for grant in granted.grants:
            self.settlement.metrics.calls.grants.labels(PRIORITIES[grant.dial["priority"]]).inc()
            self._start_dialling(grant, began)
        return granted

    async def _end_expired_calls(self) -> int:
        """Ends a batch of waiting calls whose `ring_by` has passed: they will not be dialled. Returns their number."""
        change = self.settlement.change_to_expired()
        expired = await end_expired_calls(self.database, change, limit=_EXPIRED_BATCH_SIZE)
        self.settlement.count_undialled(change, len(expired))
        return len(expired)

    async def drain(self) -> None:
        """Waits until the outcome is known of every call that this worker has begun to dial."""
        self._schedule_next_step(None)
        while self._dial_tasks:
            await asyncio.wait(self._dial_tasks)

    def _start_dialling(self, grant: DialGrant, began: float) -> None:
        task = asyncio.create_task(self.call_dialer.dial(grant, began))
        self._dial_tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if len(self._dial_tasks) >= self.max_in_flight:
            self.wake.set()
        self._dial_tasks.discard(task)

    def _schedule_next_step(self, seconds: float | None) -> None:
        """Makes the next step begin after `seconds`. If it is None, the next step begins after the normal pause of the job."""
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        self._wake_timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.wake.set)
