"""SQL of queues, on asyncpg alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID


class Statements(Protocol):
    """The part of the database that runs one statement without SQLAlchemy: a Pool, a Database or a Connection."""

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class StoredQueue:
    """What the creation of a scheduled call needs of its queue."""

    id: UUID
    paused: bool
    ring_within_s: int | None
    hours: dict[str, Any] | None
    """As stored: the queue's own hours; None if those of the tenant apply."""


_FIND_QUEUE = "SELECT id, paused, ring_within_s, hours FROM queue WHERE tenant_id = $1 AND name = $2"


async def find_queues(database: Statements, wanted: Sequence[tuple[str, str]]) -> list[StoredQueue | None]:
    """Returns the queue of each tenant and name, or None."""
    found = {each: await find_queue(database, *each) for each in set(wanted)}
    return [found[each] for each in wanted]


async def find_queue(database: Statements, tenant_id: str, name: str) -> StoredQueue | None:
    """Returns the tenant's queue of this name."""
    rows = await database.fetch(_FIND_QUEUE, tenant_id, name)
    if not rows:
        return None
    hours = rows[0]["hours"]
    return StoredQueue(**(dict(rows[0]) | {"hours": None if hours is None else json.loads(hours)}))
