"""Creates, changes and shows queues. Does not import FastAPI."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from app.audit.events import Actor, AuditAction
from app.audit.store import record_audit_event
from app.database.connection import Connection
from app.database.pool import TransactionRunner
from app.http.concurrency import ConcurrencyLimit
from app.queues import store
from app.queues.progress import QueueProgress, progress_of
from app.queues.state_store import find_queue_state
from app.queues.store import QueueRow
from app.scheduling.hours import CallingHours
from app.scheduling.pace_limits import UNLIMITED_PACE, PaceChange
from app.scheduling.pace_store import lock_pace, write_pace
from app.scheduling.schedule import MAX_RING_BY_AHEAD
from app.tenants.administration_store import find_tenant
from app.tenants.errors import InvalidValue, NoSuchResource, no_such_tenant_error
from app.tenants.names import RESOURCE_NAME_ADVICE, RESOURCE_NAME_PATTERN
from app.tenants.postponed_calls import StoredSettingsChange, apply_settings_to_waiting_calls

MAX_RING_WITHIN_S: Final = int(MAX_RING_BY_AHEAD.total_seconds())
_NAME_PATTERN: Final = re.compile(RESOURCE_NAME_PATTERN)
_SETTINGS_IN_QUEUE_TABLE: Final = ("paused", "hours", "ring_within_s")


class QueueChange(TypedDict, total=False):
    """Changes to a queue. A missing key leaves the setting as it is; None removes the value."""

    paused: bool
    hours: CallingHours | None
    ring_within_s: int | None
    pace: PaceChange | None


@dataclass(frozen=True, slots=True)
class QueueService:
    database: TransactionRunner
    read_limit: ConcurrencyLimit

    async def create_or_change(self, actor: Actor, tenant_id: str, name: str, change: QueueChange) -> tuple[QueueRow, bool]:
        """Creates a queue, or changes the queue of this name. Returns the queue, and whether it was created.

        If the change pauses the queue, no worker takes the right to dial one of its calls once this method returns. Calls for
        which a worker has this right already are still dialled, and calls under way go on. Changed hours apply to waiting calls
        at once. Raises InvalidValue for an invalid name or value, and NoSuchResource if there is no such tenant.
        """
        _validate(name, change)
        async with self.database.transaction() as connection:
            if await find_tenant(connection, tenant_id) is None:
                raise no_such_tenant_error(tenant_id)
            created = await store.insert_queue(connection, tenant_id=tenant_id, name=name)
            queue = await _lock_or_raise(connection, tenant_id, name)
            changed = await _write_change(connection, queue, change)
            for action, members in _audit_actions(change, changed, created=created).items():
                await record_audit_event(connection, actor, action=action, tenant_id=tenant_id, subject=name, changed=members)
            queue = await _lock_or_raise(connection, tenant_id, name)
        # Do this even if nothing has changed: an earlier request may have failed to apply the settings to waiting calls.
        await apply_settings_to_waiting_calls(
            self.database,
            StoredSettingsChange(
                tenant_id, hours_changed="hours" in change, is_stopped=bool(change.get("paused")), queue_id=queue.id
            ),
        )
        return queue, created

    async def change(self, actor: Actor, tenant_id: str, name: str, change: QueueChange) -> QueueRow:
        """Changes an existing queue. Raises the errors of `create_or_change`, and NoSuchResource if there is no such queue."""
        await self.get(tenant_id, name)
        queue, _ = await self.create_or_change(actor, tenant_id, name, change)
        return queue

    async def list(self, tenant_id: str, *, after: str | None = None, limit: int | None = None) -> list[QueueRow]:
        """Returns the tenant's queues, sorted by name. With `after`, returns only queues whose names come after this one.

        Raises NoSuchResource if there is no such tenant.
        """
        async with self.database.transaction() as connection:
            if await find_tenant(connection, tenant_id) is None:
                raise no_such_tenant_error(tenant_id)
            return await store.list_queues(connection, tenant_id, after=after, limit=limit)

    async def get(self, tenant_id: str, name: str) -> QueueRow:
        """Returns the queue. Raises NoSuchResource if the tenant has no queue of this name."""
        async with self.database.transaction() as connection:
            return await _get_or_raise(connection, tenant_id, name)

    async def progress(self, tenant_id: str, name: str) -> QueueProgress:
        """Returns the progress of the queue. A count that takes longer than 1.5 seconds is None.

        Each count is its own statement, so that a slow count does not affect the other one. Raises NoSuchResource if the tenant
        has no queue of this name, and Overloaded if too many counts and lists are being read.
        """
        async with self.read_limit.admit_request(tenant_id), self.database.transaction() as connection:
            state = await find_queue_state(connection, tenant_id=tenant_id, name=name)
            if state is None:
                raise _queue_not_found(tenant_id, name)
            waiting = await store.count_waiting(connection, state.queue.id)
            counts = await store.count_calls(connection, state.queue.id)
        return progress_of(state, waiting, counts)


def _validate(name: str, change: QueueChange) -> None:
    """Raises InvalidValue for an invalid name or `ring_within_s`."""
    if not _NAME_PATTERN.fullmatch(name):
        raise InvalidValue("/name", "invalid_name", f"this is not a name of a queue: {RESOURCE_NAME_ADVICE}")
    ring_within_s = change.get("ring_within_s")
    if ring_within_s is not None and not 1 <= ring_within_s <= MAX_RING_WITHIN_S:
        raise InvalidValue("/ring_within_s", "out_of_range", f"`ring_within_s` is between 1 and {MAX_RING_WITHIN_S} seconds")


def _audit_actions(change: QueueChange, changed: Sequence[str], *, created: bool) -> dict[AuditAction, list[str]]:
    """Returns the actions that the audit log records for a change of a queue, each with a list of the changed settings' names.

    Only the action `queue.update` has names. The lists of the actions for creating, pausing and resuming a queue are empty.
    """
    actions: dict[AuditAction, list[str]] = {}
    if created:
        actions["queue.create"] = []
    elif others := [name for name in changed if name != "paused"]:
        actions["queue.update"] = others
    if "paused" in changed:
        actions["queue.pause" if change.get("paused") else "queue.resume"] = []
    return actions


async def _get_or_raise(connection: Connection, tenant_id: str, name: str) -> QueueRow:
    queue = await store.get_queue(connection, tenant_id=tenant_id, name=name)
    if queue is None:
        raise _queue_not_found(tenant_id, name)
    return queue


async def _lock_or_raise(connection: Connection, tenant_id: str, name: str) -> QueueRow:
    queue = await store.lock_queue(connection, tenant_id=tenant_id, name=name)
    if queue is None:
        raise _queue_not_found(tenant_id, name)
    return queue


async def _write_change(connection: Connection, queue: QueueRow, change: QueueChange) -> list[str]:
    """Writes the change to a locked queue. Returns the names of the settings whose values have changed."""
    stored = {name: getattr(queue, name) for name in _SETTINGS_IN_QUEUE_TABLE}
    settings = stored | {name: value for name, value in change.items() if name in _SETTINGS_IN_QUEUE_TABLE}
    pace = change.get("pace", PaceChange())
    limits = UNLIMITED_PACE if pace is None else queue.pace.with_changes(pace)
    changed = [name for name in _SETTINGS_IN_QUEUE_TABLE if settings[name] != stored[name]]
    changed_limits = queue.pace.names_of_differing_limits(limits)
    if changed or changed_limits:
        await store.update_queue(connection, queue.id, **settings)
    if changed_limits:
        await lock_pace(connection, queue.id)
        await write_pace(connection, queue.id, limits)
    return changed + changed_limits


def _queue_not_found(tenant_id: str, name: str) -> NoSuchResource:
    return NoSuchResource("queue", f"tenant {tenant_id} has no queue {name!r}: see `callgate queues list {tenant_id}`")
