"""Creates, changes and shows queues. Independent of HTTP."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from app.audit.events import Actor, AuditAction
from app.audit.store import record
from app.database.connection import Connection
from app.database.pool import Transactions
from app.http.read_limit import ReadLimit
from app.queues import store
from app.queues.progress import QueueProgress, progress_of
from app.queues.state_store import find_queue_state
from app.queues.store import QueueRow
from app.scheduling.hours import Hours
from app.scheduling.pace_limits import UNLIMITED, PaceChange
from app.scheduling.pace_store import lock_pace, write_pace
from app.scheduling.schedule import MAX_AHEAD
from app.tenants.administration_store import find_tenant
from app.tenants.errors import InvalidMember, NoSuchResource, no_tenant
from app.tenants.names import RESOURCE_NAME, RESOURCE_NAME_ADVICE
from app.tenants.postponed_calls import make_calls_due, wait_for_grants

MAX_RING_WITHIN_S: Final = int(MAX_AHEAD.total_seconds())
_NAME: Final = re.compile(RESOURCE_NAME)
_MEMBERS: Final = ("paused", "hours", "ring_within_s")


class QueueChange(TypedDict, total=False):
    """What to change of a queue. A member that is missing stays as it is; None removes the value."""

    paused: bool
    hours: Hours | None
    ring_within_s: int | None
    pace: PaceChange | None


@dataclass(frozen=True, slots=True)
class QueueService:
    database: Transactions
    reads: ReadLimit

    async def put(self, actor: Actor, tenant_id: str, name: str, change: QueueChange) -> tuple[QueueRow, bool]:
        """Creates a queue, or changes the one of this name. Returns it, and whether it was created now.

        After a pause no call is granted; calls under way go on. Changed hours apply to waiting calls at once. Raises
        InvalidMember.
        """
        _check(name, change)
        async with self.database.transaction() as connection:
            if await find_tenant(connection, tenant_id) is None:
                raise no_tenant(tenant_id)
            created = await store.insert_queue(connection, tenant_id=tenant_id, name=name)
            queue = await _locked(connection, tenant_id, name)
            changed = await _write(connection, queue, change)
            for action, members in _deeds(change, changed, created=created).items():
                await record(connection, actor, action=action, tenant_id=tenant_id, subject=name, changed=members)
            queue = await _locked(connection, tenant_id, name)
        # Also if nothing was changed: an earlier request may have failed here.
        if "hours" in change:
            await make_calls_due(self.database, tenant_id, queue.id)
        elif change.get("paused"):
            await wait_for_grants(self.database, tenant_id)
        return queue, created

    async def change(self, actor: Actor, tenant_id: str, name: str, change: QueueChange) -> QueueRow:
        """Changes a queue that exists. Raises as `put`, and NoSuchResource."""
        await self.get(tenant_id, name)
        queue, _ = await self.put(actor, tenant_id, name, change)
        return queue

    async def list(self, tenant_id: str, *, after: str | None = None, limit: int | None = None) -> list[QueueRow]:
        """Returns the queues by name; with `after`, those with a later name."""
        async with self.database.transaction() as connection:
            if await find_tenant(connection, tenant_id) is None:
                raise no_tenant(tenant_id)
            return await store.list_queues(connection, tenant_id, after=after, limit=limit)

    async def get(self, tenant_id: str, name: str) -> QueueRow:
        """Raises NoSuchResource."""
        async with self.database.transaction() as connection:
            return await _found(connection, tenant_id, name)

    async def progress(self, tenant_id: str, name: str) -> QueueProgress:
        """Returns how far the queue is. What cannot be counted within 1.5 seconds is None. Raises NoSuchResource.

        Each count is a statement of its own, so that one that takes too long does not cost the other one.
        """
        async with self.reads.slot(tenant_id), self.database.transaction() as connection:
            state = await find_queue_state(connection, tenant_id=tenant_id, name=name)
            if state is None:
                raise _no_queue(tenant_id, name)
            waiting = await store.count_waiting(connection, state.queue.id)
            counts = await store.count_calls(connection, state.queue.id)
        return progress_of(state, waiting, counts)


def _check(name: str, change: QueueChange) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidMember("/name", "invalid_name", f"this is not a name of a queue: {RESOURCE_NAME_ADVICE}")
    ring_within_s = change.get("ring_within_s")
    if ring_within_s is not None and not 1 <= ring_within_s <= MAX_RING_WITHIN_S:
        raise InvalidMember("/ring_within_s", "out_of_range", f"`ring_within_s` is between 1 and {MAX_RING_WITHIN_S} seconds")


def _deeds(change: QueueChange, changed: Sequence[str], *, created: bool) -> dict[AuditAction, list[str]]:
    """Returns the actions of the audit log, with the members that each changed. A pause is an action of its own."""
    if created:
        return {"queue.create": []}
    deeds: dict[AuditAction, list[str]] = {}
    if others := [member for member in changed if member != "paused"]:
        deeds["queue.update"] = others
    if "paused" in changed:
        deeds["queue.pause" if change.get("paused") else "queue.resume"] = []
    return deeds


async def _found(connection: Connection, tenant_id: str, name: str) -> QueueRow:
    queue = await store.get_queue(connection, tenant_id=tenant_id, name=name)
    if queue is None:
        raise _no_queue(tenant_id, name)
    return queue


async def _locked(connection: Connection, tenant_id: str, name: str) -> QueueRow:
    queue = await store.lock_queue(connection, tenant_id=tenant_id, name=name)
    if queue is None:
        raise _no_queue(tenant_id, name)
    return queue


async def _write(connection: Connection, queue: QueueRow, change: QueueChange) -> list[str]:
    """Writes the change of a locked queue. Returns the names of the members that differ now."""
    stored = {member: getattr(queue, member) for member in _MEMBERS}
    settings = stored | {member: value for member, value in change.items() if member in _MEMBERS}
    pace = change.get("pace", PaceChange())
    limits = UNLIMITED if pace is None else queue.pace.changed(pace)
    changed = [member for member in _MEMBERS if settings[member] != stored[member]]
    changed_limits = queue.pace.differing_members(limits)
    if changed or changed_limits:
        await store.update_queue(connection, queue.id, **settings)
    if changed_limits:
        await lock_pace(connection, queue.id)
        await write_pace(connection, queue.id, limits)
    return changed + changed_limits


def _no_queue(tenant_id: str, name: str) -> NoSuchResource:
    return NoSuchResource("queue", f"tenant {tenant_id} has no queue {name!r}: see `callgate queues list {tenant_id}`")
