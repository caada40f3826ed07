"""Dials scheduled calls as soon as their time has come and the dialling limits allow another call.

Also ends calls that were not dialled by their `ring_by`, the latest time at which a call may begin to ring.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog

from app.calls.creation.granted_calls import GrantedCallDialer
from app.calls.creation.grants.accounts import WaitingAccount, accounts_with_scheduled_calls
from app.calls.creation.grants.service import DialGrantBatch, grant_calls
from app.calls.creation.grants.store import DialGrant
from app.calls.creation.scheduled.store import end_expired_calls
from app.calls.settlement import Settlement
from app.clock import monotonic_seconds
from app.database.engine import Database
from app.errors import DatabaseUnavailable
from app.scheduling.grant_counters import KnownGrantCounts
from app.scheduling.schedule import PRIORITIES

logger = structlog.stdlib.get_logger(__name__)

_EXPIRED_BATCH_SIZE = 500


@dataclass
class ScheduledCallDialer:
    """Takes grants (rights to dial one scheduled call each), and dials the calls: at most `max_in_flight` at the same time.

    At most `max_in_flight_per_tenant` of them belong to one tenant, unless the tenant has a limit of its own.
    """

    database: Database
    call_dialer: GrantedCallDialer
    settlement: Settlement
    max_in_flight: int
    max_in_flight_per_tenant: int
    counters: KnownGrantCounts = field(default_factory=KnownGrantCounts)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _dial_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _dials_by_tenant: Counter[str] = field(default_factory=Counter)
    # The tenants that had reached their limit when the last step examined their accounts.
    _full_tenants: set[str] = field(default_factory=set)
    _step_number: int = 0
    # The number of the step in which each account had its last turn.
    _last_steps: dict[UUID, int] = field(default_factory=dict)
    _wake_timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        # Series start at 0, because Prometheus shows no increase from a missing series to 1.
        for priority in PRIORITIES:
            self.settlement.metrics.calls.grants.labels(priority)

    async def step(self) -> bool:
        """Ends a batch of expired calls. Then takes grants (rights to dial one call each): at most one batch for each account.

        Starts to dial the calls of these grants, and does not wait for the outcomes. Returns whether the next step should
        follow without a pause: more calls may have expired, or may be dialled now.
        """
        is_last = await self._end_expired_calls() < _EXPIRED_BATCH_SIZE
        waits = []
        self._full_tenants.clear()
        for account in await self._waiting_accounts():
            if account.due_in_s > 0:
                waits.append(account.due_in_s)
                continue
            if (free := self.max_in_flight - len(self._dial_tasks)) <= 0:
                break
            tenant_limit = account.max_in_flight or self.max_in_flight_per_tenant
            if (free_of_tenant := tenant_limit - self._dials_by_tenant[account.tenant_id]) <= 0:
                self._full_tenants.add(account.tenant_id)
                continue
            self._last_steps[account.account_id] = self._step_number
            granted = await self._grant_calls_of_account(account.account_id, min(free, free_of_tenant))
            is_last = is_last and granted.is_last
            if granted.wait_s is not None:
                waits.append(granted.wait_s)
        self._schedule_next_step(min(waits, default=None))
        return not is_last and len(self._dial_tasks) < self.max_in_flight

    async def _waiting_accounts(self) -> list[WaitingAccount]:
        """Returns the accounts with scheduled calls. Those that this worker has not served for the longest time come first.

        In this order, no account can use up `max_in_flight`, or the limit of its tenant, in every step.
        """
        waiting = await accounts_with_scheduled_calls(self.database)
        self._step_number += 1
        self._last_steps = {each.account_id: self._last_steps.get(each.account_id, 0) for each in waiting}
        return sorted(waiting, key=lambda each: (self._last_steps[each.account_id], each.account_id))

    async def _grant_calls_of_account(self, account_id: UUID, limit: int) -> DialGrantBatch:
        """Takes at most `limit` grants (rights to dial one call each) for one account, starts to dial, and returns the grants.

        Returns no grants if another transaction keeps a row locked, such as that of a queue. Raises other DatabaseUnavailable
        errors. Logs any other error and returns no grants, so that the error does not affect other accounts. If the task is
        canceled, calls that have a grant and are not dialled yet wait again.
        """
        began = monotonic_seconds()
        try:
            await self.counters.load()
            granted = await grant_calls(
                self.database,
                account_id,
                limit=limit,
                counters=self.counters,
                make_call_wait_again=self.call_dialer.requeue_undialled_call,
            )
        except DatabaseUnavailable as error:
            if not error.is_lock_timeout:
                raise
            return DialGrantBatch([], is_last=True)
        except OSError as error:
            # Takes no grants: without the counters it is unknown how many grants other workers have taken.
            logger.error("grant_counters_unreadable", account_id=str(account_id), error=type(error).__name__, errno=error.errno)
            return DialGrantBatch([], is_last=True)
        except Exception:
            logger.exception("grant_failed", account_id=str(account_id))
            return DialGrantBatch([], is_last=True)
        if granted.grants:
            await self._save_grant_counts(granted.grants)
        for grant in granted.grants:
            self.settlement.metrics.calls.grants.labels(PRIORITIES[grant.dial_row["priority"]]).inc()
            self._start_dialling(grant, began)
        return granted

    async def _save_grant_counts(self, grants: Sequence[DialGrant]) -> None:
        """Saves each account's number of grants (rights to dial) to the folder of grant counts.

        If the task is canceled meanwhile, the calls of `grants` wait again.
        """
        try:
            await self.counters.save()
        except BaseException:
            for grant in grants:
                self.call_dialer.requeue_undialled_call(grant)
            raise

    async def _end_expired_calls(self) -> int:
        """Ends a batch of waiting calls whose `ring_by` has passed: they will not be dialled. Returns their number."""
        change = self.settlement.change_to_expired()
        expired = await end_expired_calls(self.database, change, limit=_EXPIRED_BATCH_SIZE)
        self.settlement.count_undialled_calls(change, len(expired))
        return len(expired)

    async def drain(self) -> None:
        """Waits for the outcome of every call that this worker has begun to dial."""
        self._schedule_next_step(None)
        while self._dial_tasks:
            await asyncio.wait(self._dial_tasks)

    def _start_dialling(self, grant: DialGrant, began: float) -> None:
        task = asyncio.create_task(self.call_dialer.dial(grant, began))
        self._dial_tasks.add(task)
        self._dials_by_tenant[grant.call.tenant_id] += 1
        task.add_done_callback(partial(self._on_done, grant.call.tenant_id))

    def _on_done(self, tenant_id: str, task: asyncio.Task[None]) -> None:
        if len(self._dial_tasks) >= self.max_in_flight or tenant_id in self._full_tenants:
            self.wake.set()
        self._dial_tasks.discard(task)
        self._dials_by_tenant[tenant_id] -= 1
        if not self._dials_by_tenant[tenant_id]:
            del self._dials_by_tenant[tenant_id]

    def _schedule_next_step(self, seconds: float | None) -> None:
        """Makes the next step begin after `seconds` at the latest; if None, after the job's normal pause.

        Replaces the time that was set before.
        """
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        self._wake_timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.wake.set)
