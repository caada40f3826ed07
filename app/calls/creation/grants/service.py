"""Grants scheduled calls of one account: takes the right to dial them, which only one process can have.

The API keys and workloads that scheduled the calls take turns: the SQL in `store` chooses the next call. The pace (call rate
and concurrent calls) of the account and of its queues limits how many calls are dialled.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app.calls.creation.grants import store
from app.calls.creation.grants.store import DialGrant, DueQueue, WaitingCall
from app.database.connection import Connection
from app.database.engine import Database
from app.errors import DatabaseUnavailable
from app.scheduling.dial_slots import free_slots_of_ended_calls, recount_slots_of_queues
from app.scheduling.grant_counters import KnownGrantCounts
from app.scheduling.grant_halts import halt_after_lost_grants_of_account, record_server_or_halt_grants
from app.scheduling.hours import callee_time_zones, next_time_within_hours
from app.scheduling.schedule import MAX_RING_BY_AHEAD

MAX_GRANTS_PER_TRANSACTION = 16
"""The maximum number of grants in one transaction, which keeps the account's limits locked until it ends."""
_MAX_POSTPONED_CALLS = 500
_ONE_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class DialGrantBatch:
    """The grants (rights to dial one call) that one transaction has taken for this process.

    `is_last` is True if no more grants can be taken now. `wait_s` is the time in seconds until the call rate of the account,
    or of a queue, allows another call, or until the next probe if Twilio refuses the account's calls
    (app.scheduling.refused_accounts). `wait_s` is None if none of these delays the next call.
    """

    grants: list[DialGrant]
    is_last: bool
    wait_s: float | None = None


async def grant_calls(
    database: Database,
    account_id: UUID,
    *,
    limit: int,
    counters: KnownGrantCounts | None = None,
    make_call_wait_again: Callable[[DialGrant], None] | None = None,
) -> DialGrantBatch:
    """Takes grants, the right to dial waiting calls of the account: at most `limit` and at most MAX_GRANTS_PER_TRANSACTION.

    Takes none if another worker is granting calls of the account, or if grants are halted for all accounts. Halts them if the
    database may have lost grants, for example because a backup was restored: the Postgres server has changed, or Postgres
    counts fewer grants of the account than `counters`, the counts that this process knows. Adds the new grants to `counters`.

    Raises DatabaseUnavailable if the transaction failed. The caller must dial no call then. If the grants may have been
    committed nevertheless, or if the task is canceled during the commit, first calls `make_call_wait_again` with each grant.
    `make_call_wait_again` must make the grant's call wait again. Otherwise the call stays pending.
    """
    counters = counters or KnownGrantCounts()
    grants: list[DialGrant] = []
    try:
        async with database.transaction() as connection:
            account = await store.lock_account_pace(connection, account_id)
            if account is None:
                return DialGrantBatch([], is_last=True)
            if not account.may_grant and not await record_server_or_halt_grants(connection):
                return DialGrantBatch([], is_last=True)
            # The row of the account is locked, so no higher count was committed after this one was read.
            if counters.is_below_known_count(account_id, account.grant_count):
                await halt_after_lost_grants_of_account(connection, account_id, granted_at=account.granted_at)
                return DialGrantBatch([], is_last=True)
            if await free_slots_of_ended_calls(connection, account_id):
                # Read again, with the slots that are free now.
                account = await store.lock_account_pace(connection, account_id) or account
            queues = {
                queue.id: queue for queue in await store.list_due_queues(connection, account_id, account.at) if queue.is_open
            }
            paces = await store.lock_queue_paces(connection, queues.keys())
            # Some slots are added without counting them. `free_slots_of_ended_calls` overlooks them if the account was counted
            # since, as a change of its pace does.
            if paces and await recount_slots_of_queues(connection, paces.keys()):
                paces = await store.lock_queue_paces(connection, queues.keys())
            # The time of the last lock. An earlier time would give tokens back to a queue for whose lock we waited.
            at = max(pace.at for pace in (account, *paces.values()))
            allowed_calls = {queue_id: pace.allowed_calls for queue_id, pace in paces.items()}
            granting = _GrantTransaction(connection, account_id, at, queues, allowed_calls)
            grants = await granting.grant_due_calls(min(limit, MAX_GRANTS_PER_TRANSACTION, account.allowed_calls))
    except BaseException as error:
        # There are no grants before the end of the block, where the commit begins.
        is_rolled_back = isinstance(error, DatabaseUnavailable) and not error.commit_in_doubt
        if make_call_wait_again is not None and not is_rolled_back:
            for grant in grants:
                make_call_wait_again(grant)
        raise
    counters.record_count(account_id, account.grant_count._replace(grants=account.grant_count.grants + len(grants)))
    # After a grant, another round follows, which reads how long the account has to wait.
    is_last = not grants and not granting.has_more
    waits = [pace.wait_s for pace in (account, *paces.values()) if pace.wait_s is not None]
    return DialGrantBatch(grants, is_last, min(waits, default=None))


@dataclass(slots=True)
class _GrantTransaction:
    """One transaction that takes grants (the right to dial one call) for due calls of an account.

    The caller has locked the rows of `pace`, which have the limits of the account and of its queues. `allowed_calls` maps the
    id of each queue that has limits to the number of calls that these limits still allow.
    """

    connection: Connection
    account_id: UUID
    at: datetime
    queues: dict[UUID, DueQueue]
    allowed_calls: dict[UUID, int]
    has_more: bool = False
    """Whether the next round may take more grants, even if this transaction has taken none."""

    async def grant_due_calls(self, limit: int) -> list[DialGrant]:
        has_hours = any(queue.hours for queue in self.queues.values())
        grants = list[DialGrant]()
        # Also limits the calls that turn out not to wait any more, so that the lock is not held for long.
        for _ in range(MAX_GRANTS_PER_TRANSACTION):
            if len(grants) >= limit:
                return grants
            granted = await (self._grant_or_postpone_next_call if has_hours else self._grant_next)()
            if granted is None:
                return grants
            for each in granted:
                self._decrement_allowed_calls(each)
            grants += granted
        self.has_more = True
        return grants

    async def _grant_next(self) -> Sequence[DialGrant] | None:
        """Grants the next due call, and returns a sequence of one grant.

        Returns None if no call is due, and an empty sequence if the next call no longer waits.
        """
        return await store.grant_next_call(self.connection, self.account_id, self.at, self._queues_that_allow_calls())

    async def _grant_or_postpone_next_call(self) -> Sequence[DialGrant] | None:
        """Grants the next due call if it may ring now by its calling hours, and returns what `_grant_next` would return.

        Otherwise postpones the call and returns None.
        """
        candidate = await store.next_waiting_call(self.connection, self.account_id, self.at, self._queues_that_allow_calls())
        if candidate is None:
            return None
        if await self._postpone_outside_hours(candidate):
            # The rest is left to the next round, so that the lock is not held for all calls of a long queue.
            self.has_more = True
            return None
        return await store.grant_call(self.connection, candidate.call_id, self.at)

    def _decrement_allowed_calls(self, granted: DialGrant) -> None:
        queue_id = granted.dial_row["queue_id"]
        if queue_id in self.allowed_calls:
            self.allowed_calls[queue_id] -= 1

    def _queues_that_allow_calls(self) -> Collection[UUID]:
        """Returns the ids of the queues whose own limits allow another call."""
        return [queue_id for queue_id in self.queues if self.allowed_calls.get(queue_id, 1) > 0]

    async def _postpone_outside_hours(self, candidate: WaitingCall) -> bool:
        """Postpones `candidate`, the next call, if it is outside its calling hours. Returns whether it was postponed.

        A call is postponed to the beginning of its hours, or to its `ring_by` if that is earlier: the call then expires. Also
        postpones calls of the same queue and priority that are due after the candidate and outside their hours. Does not read
        calls that are due before the candidate: some may be within their hours, and each transaction would read these again.
        """
        hours = self.queues[candidate.queue_id].hours
        if hours is None:
            return False
        zones = callee_time_zones(candidate.to, candidate.time_zone, hours)
        if next_time_within_hours(hours, self.at, zones, self.at + _ONE_MICROSECOND):
            return False
        at = self.at
        due = await store.list_due_calls_from(self.connection, self.account_id, candidate, at, limit=_MAX_POSTPONED_CALLS)
        # The openings are kept by time zones, because the opening for a number that may be in many zones takes milliseconds.
        openings: dict[tuple[str, ...], datetime | None] = {}
        later = {}
        for each in (candidate, *due):
            zones = callee_time_zones(each.to, each.time_zone, hours)
            if zones not in openings:
                openings[zones] = next_time_within_hours(hours, at, zones, at + MAX_RING_BY_AHEAD)
            if (opening := openings[zones]) != at:
                later[each.call_id] = min(opening or each.ring_by, each.ring_by)
        await store.postpone_scheduled_calls(self.connection, later)
        return True
