"""Inserts rows of deliveries in each state that Callgate itself writes."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.calls import ids
from tests.support.gateway import Gateway

URL = "https://hooks.example.com/calls"
_INSERT = """INSERT INTO delivery (id, call_id, at, tenant_id, event, position, url, method, fields, state, attempts, held,
        pending_since, next_attempt_at, last_attempt_at, last_status, last_error)
    SELECT $1, $2, $3, $4, 'completed', 4, $5, 'POST', '{}', $6, $7, $8, $3, $9, $10, $11, $12"""


def id_at(moment: datetime) -> UUID:
    """Returns a new UUID whose timestamp is `moment`."""
    return UUID(int=ids.lowest_call_id_at(moment).int | 7 << 76 | secrets.randbits(76))


async def add_delivery(
    gateway: Gateway,
    tenant_id: str,
    *,
    call_id: UUID | None = None,
    state: str = "pending",
    attempts: int = 0,
    age_s: float = 0,
    due_s: float = 60,
    url: str | None = URL,
    held: bool = False,
    last_status: int | None = None,
    last_error: str | None = None,
) -> UUID:
    """Adds a delivery that is `age_s` seconds old. If it is pending, its next attempt is due in `due_s` seconds."""
    now = datetime.now(UTC)
    delivery_id = id_at(now - timedelta(seconds=age_s))
    due = now + timedelta(seconds=due_s) if state == "pending" else None
    attempted = now - timedelta(seconds=age_s) if attempts else None
    values: tuple[Any, ...] = (url, state, attempts, held, due, attempted, last_status, last_error)
    await gateway.database.fetch(
        _INSERT, delivery_id, call_id or uuid7(), ids.creation_time_of_id(delivery_id), tenant_id, *values
    )
    return delivery_id
