"""Plays a file of scheduled calls against a clock of its own: when each would ring or expire, and at what pace.

Admission, grants and expiry are those of the worker, over a Postgres of its own. The clock jumps from one event to the next,
and nothing is dialled: a call that is granted is under way for a given time and ends.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls.creation.grants.service import BATCH, grant_calls
from app.calls.creation.scheduled.admission import make_schedule
from app.calls.creation.scheduled.store import SCHEDULED_BATCH, ScheduledCall, end_expired_calls, insert_scheduled
from app.calls.creation.store import NewCall
from app.calls.creation.validation import validate_call
from app.calls.settlement import Settlement
from app.database.connection import Connection
from app.database.engine import Database
from app.errors import CallgateError, FieldError, InvalidRequest
from app.local import rehearsal_store as store
from app.local.rehearsal_store import CopiedSettings
from app.queues.lines import read_line
from app.scheduling.pace_limits import UNLIMITED, PaceChange, PaceLimits
from app.scheduling.pace_store import find_paces, lock_pace, write_pace
from app.scheduling.schedule import PRIORITIES
from app.scheduling.store import StoredQueue, find_queue
from app.tenants.errors import OperatorError

RehearsedOutcome = Literal["rings", "expires", "refused"]
_TENANT, _ACCOUNT_SID, _CALLER = "rehearsal", "AC" + "0" * 32, UUID(int=1)
_EXPIRED_AT_ONCE: Final = 500
# The clock moves by at least this much, so that a wait that is rounded to nothing ends.
_STEP: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class RehearsalSettings:
    """The hours of the tenant, the queue, and the paces of the tenant's first account and of the queue."""

    copied: CopiedSettings
    account_pace: PaceLimits
    queue_pace: PaceLimits


@dataclass(slots=True)
class RehearsedCall:
    """A line of the file. `at` is when it rings or expires; `reason` says why it is refused."""

    line: int
    key: str | None = None
    outcome: RehearsedOutcome | None = None
    at: datetime | None = None
    not_before: datetime | None = None
    ring_by: datetime | None = None
    priority: str | None = None
    reason: str | None = None
    _scheduled: ScheduledCall | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReachedPace:
    """`calls_per_second` is the mean from the first call to the last; None if there is no time between them."""

    first: datetime | None
    last: datetime | None
    calls_per_second: float | None
    most_in_a_second: int
    most_under_way: int


@dataclass
class Rehearsal:
    """`call_time` is how long a call is under way, from the dial to its end."""

    database: Database
    queue: str
    call_time: timedelta
    _account_id: UUID = field(default_factory=uuid7)
    _waiting: dict[UUID, RehearsedCall] = field(default_factory=dict)
    _ended: list[RehearsedCall] = field(default_factory=list)
    # When the calls under way end, if others wait for that.
    _ends: list[tuple[datetime, UUID]] = field(default_factory=list)
    _has_slots: bool = False

    async def play(self, lines: Iterable[bytes], settings: RehearsalSettings, start: datetime) -> list[RehearsedCall]:
        """Adds all the lines at `start`. Returns them in the order in which they ring or expire, and refused ones last."""
        await store.set_clock(self.database, start)
        self._has_slots = any(limits.max_concurrent for limits in (settings.account_pace, settings.queue_pace))
        queue = await self._add_queue(settings)
        calls = list(self._read(lines, queue, start))
        await self._add([call for call in calls if call._scheduled is not None])
        at: datetime | None = start
        while at is not None:
            await store.set_clock(self.database, at)
            at = await self._play_moment(at, queue.id)
        return self._ended + [call for call in calls if call.outcome == "refused"]

    async def _add_queue(self, settings: RehearsalSettings) -> StoredQueue:
        async with self.database.transaction() as connection:
            queue_id = await store.add_queue(
                connection,
                settings.copied,
                tenant_id=_TENANT,
                account_id=self._account_id,
                account_sid=_ACCOUNT_SID,
                queue=self.queue,
            )
            for subject_id, limits in ((self._account_id, settings.account_pace), (queue_id, settings.queue_pace)):
                await lock_pace(connection, subject_id)
                await write_pace(connection, subject_id, limits)
        queue = await find_queue(self.database, _TENANT, self.queue)
        if queue is None:
            raise RuntimeError("the queue was just added")
        return queue

    def _read(self, lines: Iterable[bytes], queue: StoredQueue, start: datetime) -> Iterator[RehearsedCall]:
        keys = dict[str, int]()
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            line = read_line(number, text)
            call = RehearsedCall(number, line.key)
            try:
                if isinstance(line.body, CallgateError):
                    raise line.body
                if line.key is not None and (first := keys.setdefault(line.key, number)) != number:
                    raise _fault("/key", "repeated_key", f"is that of line {first}")
                if line.body.get("queue", self.queue) != self.queue:
                    raise _fault("/queue", "another_queue", f"must be {self.queue}, or be left out")
                self._schedule(call, {**line.body, "queue": self.queue}, queue, start)
            except CallgateError as error:
                call.outcome = "refused"
                faults = (f"{fault.pointer} {fault.detail}".strip() for fault in error.field_errors)
                call.reason = "; ".join(faults) or error.detail
            yield call

    def _schedule(self, call: RehearsedCall, body: dict[str, Any], queue: StoredQueue, start: datetime) -> None:
        request = validate_call(body).request
        schedule = make_schedule(request, queue, _CALLER, now=start)
        call.not_before, call.ring_by = schedule.not_before, schedule.ring_by
        call.priority = PRIORITIES[schedule.priority]
        new = NewCall(
            id=uuid7(),
            tenant_id=_TENANT,
            account_id=self._account_id,
            account_sid=_ACCOUNT_SID,
            created_at=start,
            idempotency_key=call.key,
            fingerprint=b"",
            parameters=request.for_record() | schedule.for_record(self.queue),
            warnings=[],
            to=request.to,
            from_=request.from_,
            address_key=None,
            traceparent=None,
            status_callback=None,
            status_callback_method=None,
            status_callback_events=None,
        )
        call._scheduled = ScheduledCall(new, schedule)

    async def _add(self, calls: Sequence[RehearsedCall]) -> None:
        for begin in range(0, len(calls), SCHEDULED_BATCH):
            batch = calls[begin : begin + SCHEDULED_BATCH]
            await insert_scheduled(self.database, [call._scheduled for call in batch if call._scheduled])
            self._waiting |= {call._scheduled.call.id: call for call in batch if call._scheduled}

    async def _play_moment(self, at: datetime, queue_id: UUID) -> datetime | None:
        """Does what a worker does at this moment, and returns the next one at which there is something to do."""
        ended = []
        while self._ends and self._ends[0][0] <= at:
            ended.append(heapq.heappop(self._ends)[1])
        if ended:
            await store.complete_calls(self.database, ended)
        change = Settlement.change_to_expired()
        while expired := await end_expired_calls(self.database, change, limit=_EXPIRED_AT_ONCE):
            for call_id in sorted(expired):
                self._end(call_id, "expires", at)
        while (made := await grant_calls(self.database, self._account_id, limit=BATCH)).grants:
            for grant in made.grants:
                self._end(grant.call.id, "rings", at)
                if self._has_slots:
                    heapq.heappush(self._ends, (at + self.call_time, grant.call.id))
        if not self._waiting:
            return None
        moments = [await store.next_time(self.database, queue_id, at)]
        moments += [end for end, _ in self._ends[:1]]
        if made.wait_s is not None:
            moments.append(at + timedelta(seconds=made.wait_s))
        return max(min(moment for moment in moments if moment is not None), at + _STEP)

    def _end(self, call_id: UUID, outcome: RehearsedOutcome, at: datetime) -> None:
        call = self._waiting.pop(call_id)
        call.outcome, call.at = outcome, at
        self._ended.append(call)


async def prepare_database(url: str) -> None:
    """Makes the rehearsal's clock that of a new database, before it is migrated."""
    database = Database(url, pool_size=1)
    try:
        async with database.transaction() as connection:
            await store.make_clock(connection)
    finally:
        await database.close()


async def read_settings(
    connection: Connection, tenant_id: str | None, queue: str | None, change: PaceChange
) -> RehearsalSettings:
    """Returns the stored settings, and of the queue's pace what `change` leaves of it. Raises OperatorError."""
    found = await store.find_settings(connection, tenant_id, queue)
    if not found:
        what = f"no queue {queue!r}" if queue is not None else f"no tenant {tenant_id!r}"
        raise OperatorError(f"there is {what}: see `callgate queues list` and `callgate tenants list`")
    if len(found) > 1:
        raise OperatorError(f"several tenants have a queue {queue!r}: give --tenant")
    (copied,) = found
    paces = await find_paces(connection, [each for each in (copied.account_id, copied.queue_id) if each is not None])
    of_account, of_queue = (
        UNLIMITED if each is None else paces.get(each, UNLIMITED) for each in (copied.account_id, copied.queue_id)
    )
    return RehearsalSettings(copied, of_account, of_queue.changed(change))


def reached_pace(calls: Iterable[RehearsedCall], call_time: timedelta) -> ReachedPace:
    """Returns the pace of those of the calls that ring."""
    times = sorted(call.at for call in calls if call.outcome == "rings" and call.at is not None)
    if not times:
        return ReachedPace(None, None, None, 0, 0)
    span_s = (times[-1] - times[0]).total_seconds()
    mean = (len(times) - 1) / span_s if span_s else None
    most_in_a_second, most_under_way = _most_within(times, timedelta(seconds=1)), _most_within(times, call_time)
    return ReachedPace(times[0], times[-1], mean, most_in_a_second, most_under_way)


def _most_within(times: Sequence[datetime], span: timedelta) -> int:
    """Returns the largest number of times in any span, whose end is not a part of it."""
    most = first = 0
    for last, time in enumerate(times):
        while time - times[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


def _fault(pointer: str, code: str, detail: str) -> InvalidRequest:
    return InvalidRequest(field_errors=(FieldError(pointer, code, detail),))
