"""Simulates the scheduled calls in a file: finds out when each call would ring or expire, without calling anyone.

Such a simulation is called a rehearsal. It uses the same code as the service to accept, dial and expire calls, on a separate
Postgres. A simulator replaces Twilio. Postgres and the simulator share a clock, which jumps from one event to the next and
stands still in between. So the same file always has the same result.
"""

import base64
import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from app.audit.events import command_actor
from app.calls.creation.grants.service import MAX_GRANTS_PER_TRANSACTION, grant_calls
from app.calls.creation.grants.store import DialGrant
from app.calls.creation.scheduled.store import (
    MAX_SCHEDULED_ROWS_PER_STATEMENT,
    ScheduledCall,
    end_expired_calls,
    insert_scheduled_calls,
)
from app.calls.progress import apply_resource
from app.calls.settlement import Settlement
from app.calls.store import ChangedCall, read_calls, write_changed_calls
from app.clock import monotonic_seconds
from app.database.connection import Connection
from app.database.engine import Database
from app.errors import CommandUnfinished
from app.jobs.deadlines import RingDeadlineEnforcer
from app.local import rehearsal_store as store
from app.local.rehearsal_lines import REHEARSAL_ACCOUNT_SID, REHEARSAL_TENANT, RehearsalLineReader
from app.local.rehearsal_report import RehearsedCall, RehearsedOutcome, sorted_by_time
from app.local.rehearsal_store import CopiedSettings
from app.local.rehearsal_twilio import RehearsalClock, RehearsalTwilio, running_simulated_twilio
from app.observability import Metrics
from app.scheduling.pace_limits import UNLIMITED_PACE, PaceChange, PaceLimits
from app.scheduling.pace_store import find_paces, lock_pace, write_pace
from app.scheduling.store import QueueDialSettings, find_queue_dial_settings
from app.services import Services, open_services
from app.settings import Settings
from app.tenants.administration_accounts import AccountAdministration
from app.tenants.errors import AdministrationError
from app.twilio.client import try_credentials
from simulator.limits import AccountLimits
from simulator.store import Call as PlacedCall

_EXPIRED_BATCH_SIZE: Final = 500
_FETCH_TIMEOUT_S: Final = 15.0
# The minimum step of the clock. Without it, a wait that is rounded to 0 would never end.
_MIN_CLOCK_STEP: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RehearsalSettings:
    """The settings of a rehearsal (a simulation of scheduled calls).

    `copied_settings` has the calling hours of a tenant and a queue, as stored. `account_pace` and `queue_pace` are Callgate's
    limits on dialling. `twilio_limits` has the limits that Twilio sets for the account.
    """

    copied_settings: CopiedSettings = CopiedSettings()  # noqa: RUF009  # frozen
    account_pace: PaceLimits = UNLIMITED_PACE
    queue_pace: PaceLimits = UNLIMITED_PACE
    twilio_limits: AccountLimits = AccountLimits(calls_per_second=1)  # noqa: RUF009  # frozen
    call_duration_s: int = 60
    """How long an answered call lasts, in seconds."""
    slow_when_queued: bool = False


async def simulate_scheduled_calls(
    database_url: str, queue: str, lines: Sequence[bytes], settings: RehearsalSettings, start: datetime
) -> list[RehearsedCall]:
    """Simulates the calls in `lines` (JSON objects), on a clock that begins at `start`. Returns them with their outcomes.

    The database must be new. The caller must have run `install_rehearsal_clock` on it, and then the migrations.
    """
    clock = RehearsalClock(start)
    async with running_simulated_twilio(
        clock, settings.twilio_limits, call_duration_s=settings.call_duration_s, max_calls=10 * len(lines) + 1
    ) as twilio:
        # `model_construct` does not read the environment, which has the settings of the real service.
        own = Settings.model_construct(
            database_url=SecretStr(database_url),
            secret_keys=SecretStr(base64.b64encode(secrets.token_bytes(32)).decode()),
            twilio_base_url=twilio.url,
            slow_when_queued=settings.slow_when_queued,
            database_pool_size=5,
        )
        async with open_services(own, Metrics()) as state:
            return await Rehearsal(state, twilio, clock, queue).simulate_calls(lines, settings)


@dataclass
class Rehearsal:
    services: Services
    twilio: RehearsalTwilio
    clock: RehearsalClock
    queue: str
    _account_id: UUID = field(default=UUID(int=0), init=False)
    _deadlines: RingDeadlineEnforcer = field(init=False)
    _waiting_calls: dict[UUID, RehearsedCall] = field(default_factory=dict, init=False)
    _placed_calls: dict[UUID, RehearsedCall] = field(default_factory=dict, init=False)
    _results: list[RehearsedCall] = field(default_factory=list, init=False)

    @property
    def _database(self) -> Database:
        return self.services["database"]

    async def simulate_calls(self, lines: Iterable[bytes], settings: RehearsalSettings) -> list[RehearsedCall]:
        """Adds the calls in `lines` to the queue, and advances the clock until each call has ended or expired.

        Returns the calls in the order in which they ring, fail or expire. Refused calls are last.
        """
        self._deadlines = RingDeadlineEnforcer(self._database, self.services["control"])
        at: datetime | None = self.clock.now
        await self.clock.set(self._database, self.clock.now)
        queue = await self._add_queue(settings)
        calls = list(RehearsalLineReader(self.queue, queue, self._account_id, self.clock.now).read(lines))
        await self._add_calls([(call, scheduled) for call, scheduled in calls if scheduled is not None])
        while at is not None:
            await self.clock.set(self._database, at)
            at = await self._simulate_moment(at, queue.id)
        for call_id, placed in self.twilio.take_remaining_calls():
            self._record_placed_call_outcome(call_id, placed)
        for call in self._results:
            call.add_twilio_reasons()
        self._results += [call for call, scheduled in calls if scheduled is None]
        return sorted_by_time(self._results)

    async def _add_queue(self, settings: RehearsalSettings) -> QueueDialSettings:
        async with self._database.transaction() as connection:
            queue_id = await store.add_tenant_and_queue(
                connection, settings.copied_settings, tenant_id=REHEARSAL_TENANT, queue=self.queue
            )
        accounts = AccountAdministration(self._database, self.services["keyring"], command_actor())
        added = await accounts.add_credential(
            REHEARSAL_TENANT, account_sid=REHEARSAL_ACCOUNT_SID, secret=secrets.token_hex(16), key_sid=None, base_url=None
        )
        self._account_id = added.account_id
        async with self._database.transaction() as connection:
            for subject_id, limits in ((self._account_id, settings.account_pace), (queue_id, settings.queue_pace)):
                await lock_pace(connection, subject_id)
                await write_pace(connection, subject_id, limits)
        queue = await find_queue_dial_settings(self._database, REHEARSAL_TENANT, self.queue)
        if queue is None:
            raise RuntimeError("the queue was just added")
        return queue

    async def _add_calls(self, calls: Sequence[tuple[RehearsedCall, ScheduledCall]]) -> None:
        for begin in range(0, len(calls), MAX_SCHEDULED_ROWS_PER_STATEMENT):
            batch = calls[begin : begin + MAX_SCHEDULED_ROWS_PER_STATEMENT]
            await insert_scheduled_calls(self._database, [scheduled for _, scheduled in batch])
            self._waiting_calls |= {scheduled.call.id: call for call, scheduled in batch}

    async def _simulate_moment(self, at: datetime, queue_id: UUID) -> datetime | None:
        """Does everything that workers and Twilio do at the time `at`. Returns the next time at which they do something.

        Returns None if they have nothing left to do.
        """
        while await self._deadlines.step():
            await self._deadlines.tasks.drain()
            self.twilio.reread_call_ends()
        for call_id, placed in self.twilio.take_ended_calls(at):
            await self._write_call_end(call_id, self._record_placed_call_outcome(call_id, placed))
        await self._expire_calls(at)
        wait_s = await self._place_due_calls(at)
        moments = [self.twilio.next_call_end()]
        if self._waiting_calls or self._placed_calls:
            moments.append(await store.next_event_time(self._database, queue_id, at))
        if self._waiting_calls and wait_s is not None:
            moments.append(at + timedelta(seconds=wait_s))
        following = min((moment for moment in moments if moment is not None), default=None)
        return None if following is None else max(following, at + _MIN_CLOCK_STEP)

    async def _write_call_end(self, call_id: UUID, call: RehearsedCall) -> None:
        """Writes the end of a call to its record, as the service does after a status callback or a fetch from Twilio.

        A call that was busy or not answered may get a redial. If so, adds the redial to the calls that wait to be dialled.
        """
        record = (await read_calls(self._database, [call_id]))[call_id]
        fetch = partial(self.services["twilio"].fetch_call, sid=record.sid or "", deadline_s=_FETCH_TIMEOUT_S)
        resource = await try_credentials(await self.services["directory"].active_credentials(self._account_id), fetch)
        changed = ChangedCall(record)
        changed.events += apply_resource(record, resource)
        await write_changed_calls(self._database, [changed])
        if call.status not in ("busy", "no-answer"):
            return
        for redial in await store.find_redials(self._database, call_id):
            self._waiting_calls[redial.id] = RehearsedCall(
                call.line,
                call.key,
                call.redial + 1,
                not_before=redial.not_before,
                ring_by=redial.ring_by,
                priority=call.priority,
            )

    def _record_placed_call_outcome(self, call_id: UUID, placed: PlacedCall) -> RehearsedCall:
        """Copies the outcome and times of `placed`, the call at the simulator, to the entry of this call in the report.

        Adds this entry to the results, and returns it.
        """
        call, plan = self._placed_calls.pop(call_id), placed.plan
        call.queue_time, call.ended_at = plan.queue_time, plan.ended_at
        call.status = None if plan.ended_at is None else str(plan.outcome)
        if plan.dialled_at is None:
            self._record_outcome(call, "expires", plan.ended_at or self.clock.now)
        else:
            self._record_outcome(call, "fails" if call.status == "failed" else "rings", plan.dialled_at)
        return call

    def _record_outcome(self, call: RehearsedCall, outcome: RehearsedOutcome, at: datetime) -> None:
        """Sets the outcome of a call and the time of the outcome, and adds the call to the results."""
        call.outcome, call.at = outcome, at
        self._results.append(call)

    async def _expire_calls(self, at: datetime) -> None:
        change = Settlement.change_to_expired()
        while expired := await end_expired_calls(self._database, change, limit=_EXPIRED_BATCH_SIZE):
            for call_id in sorted(expired):
                self._record_outcome(self._waiting_calls.pop(call_id), "expires", at)

    async def _place_due_calls(self, at: datetime) -> float | None:
        """Takes grants (rights to dial) for all calls that may be dialled now, and places the calls at the simulator.

        Returns the seconds until the call rates of the account and the queue allow another call. Returns None if no rate delays
        a call.
        """
        while True:
            made = await grant_calls(self._database, self._account_id, limit=MAX_GRANTS_PER_TRANSACTION)
            for grant in made.grants:
                await self._place_call(grant, at)
            if made.is_last:
                return made.wait_s

    async def _place_call(self, grant: DialGrant, at: datetime) -> None:
        """Places the call of a grant (a right to dial) at the simulator, without moving the clock, and records its outcome.

        A call that the simulator refuses for the moment waits again. Raises CommandUnfinished if the simulator does not answer.
        """
        call_id = grant.call.id
        call = self._waiting_calls.pop(call_id)
        await self.services["granted_call_dialer"].dial(replace(grant, ring_in_s=math.inf), monotonic_seconds())
        placed = await store.read_dial_outcome(self._database, call_id)
        if placed.execution == "started":
            call.dialled_at = at
            self._placed_calls[call_id] = call
            self.twilio.track_call(call_id, placed.sid or "")
        elif placed.execution == "scheduled":
            call.temporary_refusals += 1
            self._waiting_calls[call_id] = call
        elif placed.execution == "not_started":
            call.reason = placed.problem
            self._record_outcome(call, "refused", at)
        else:
            raise CommandUnfinished(
                "the simulator has not answered in time; nothing was placed elsewhere: run the command again"
            )


async def install_rehearsal_clock(url: str) -> None:
    """Makes the time functions of a new database return the rehearsal's clock. The caller runs the migrations afterwards."""
    database = Database(url, pool_size=1)
    try:
        async with database.transaction() as connection:
            await store.replace_postgres_clock(connection)
    finally:
        await database.close()


async def read_rehearsal_settings(
    connection: Connection, tenant_id: str | None, queue: str | None, change: PaceChange
) -> RehearsalSettings:
    """Returns the stored settings of a tenant, its oldest account and its queue, with `change` applied to the queue's limits.

    `tenant_id` and `queue` must not both be None. If `tenant_id` is None, the only tenant with this queue is used. If `queue`
    is None, no settings of a queue are read. Raises AdministrationError if there is no such tenant or queue, or if several
    tenants have the queue.
    """
    found = await store.find_settings(connection, tenant_id, queue)
    if not found:
        what = f"no queue {queue!r}" if queue is not None else f"no tenant {tenant_id!r}"
        raise AdministrationError(f"there is {what}: see `callgate queues list` and `callgate tenants list`")
    if len(found) > 1:
        raise AdministrationError(f"several tenants have a queue {queue!r}: give --tenant")
    (copied,) = found
    paces = await find_paces(connection, [each for each in (copied.account_id, copied.queue_id) if each is not None])
    of_account, of_queue = (
        UNLIMITED_PACE if each is None else paces.get(each, UNLIMITED_PACE) for each in (copied.account_id, copied.queue_id)
    )
    return RehearsalSettings(copied, of_account, of_queue.with_changes(change))
