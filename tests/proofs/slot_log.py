"""Logs the slots of calls (places within the limit of concurrent calls), and computes from the log whether limits were kept.

Triggers write the log. The transaction that takes a call's token inserts its slot. Its `granted_at` is the time at which the
token was taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any
from uuid import UUID

from app.local.postgres import EmbeddedPostgres
from tests.proofs.disturbances import administrator

_WATCH = """
    CREATE TABLE proof_slot (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, is_taken boolean, call_id uuid, account_id uuid, queue_id uuid,
        granted_at timestamptz
    );
    CREATE FUNCTION proof_log_slot() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO proof_slot (is_taken, call_id, account_id, queue_id, granted_at)
            VALUES (false, OLD.call_id, OLD.account_id, OLD.queue_id, OLD.granted_at);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO proof_slot (is_taken, call_id, account_id, queue_id, granted_at)
            VALUES (true, NEW.call_id, NEW.account_id, NEW.queue_id, NEW.granted_at);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER proof_slot AFTER INSERT OR DELETE OR UPDATE OF account_id, queue_id, granted_at ON dial_slot
        FOR EACH ROW EXECUTE FUNCTION proof_log_slot()
"""
_PACES = """
    SELECT subject_id AS id, coalesce(account_sid, queue.name) AS name, calls_per_second::float8, burst, max_concurrent, in_use
    FROM pace LEFT JOIN twilio_account ON twilio_account.id = subject_id LEFT JOIN queue ON queue.id = subject_id
    WHERE coalesce(twilio_account.tenant_id, queue.tenant_id) = $1 ORDER BY account_sid, name
"""
_LEFT = "SELECT call_id FROM dial_slot JOIN call ON call.id = call_id WHERE tenant_id = $1"
# Times have microseconds.
_ROUNDING_CALLS = 0.01


@dataclass(frozen=True, slots=True)
class SlotChange:
    """A slot that was taken or freed, as one row of the log."""

    is_taken: bool
    call_id: UUID
    account_id: UUID
    queue_id: UUID | None
    granted_at: datetime


@dataclass(frozen=True, slots=True)
class Subject:
    """An account or a queue with its limits, and the log of its slots."""

    id: UUID
    name: str
    calls_per_second: float | None
    burst: int
    max_concurrent: int | None
    in_use: int
    changes: Sequence[SlotChange]

    @property
    def grants(self) -> list[SlotChange]:
        return [change for change in self.changes if change.is_taken]

    @property
    def needed_burst(self) -> int:
        """Returns the smallest burst (the size of a token bucket) at which all grants respect the calls per second."""
        return self.burst_of(grant.granted_at.timestamp() for grant in self.grants)

    def burst_of(self, times: Iterable[float], *, spread_s: float = 0) -> int:
        """Returns the smallest burst that allows calls at these times (each off by up to `spread_s`), or 0 without a rate."""
        return 0 if self.calls_per_second is None else smallest_burst(times, self.calls_per_second, spread_s)

    @property
    def most_concurrent(self) -> int:
        most, taken = 0, 0
        for change in self.changes:
            taken += 1 if change.is_taken else -1
            most = max(most, taken)
        return most

    @property
    def is_above_concurrency(self) -> bool:
        return self.max_concurrent is not None and self.most_concurrent > self.max_concurrent


def smallest_burst(times: Iterable[float], calls_per_second: float, spread_s: float = 0) -> int:
    """Returns the smallest burst (the size of a token bucket) that allows calls at these times at the rate `calls_per_second`.

    Each time may be off by up to `spread_s` seconds.
    """
    most, least = 0.0, float("inf")
    for number, time in enumerate(sorted(times)):
        level = number - time * calls_per_second
        least = min(least, level)
        most = max(most, level - least + 1)
    return ceil(most - spread_s * calls_per_second - _ROUNDING_CALLS)


async def watch_slots(postgres: EmbeddedPostgres) -> None:
    async with administrator(postgres) as connection:
        await connection.execute(_WATCH)


async def read_subjects(postgres: EmbeddedPostgres, tenant: str) -> tuple[list[Subject], set[str]]:
    """Returns the tenant's accounts and queues with the log of their slots, and the ids of the calls that have a slot now."""
    columns = ", ".join(SlotChange.__slots__)
    # One snapshot, because workers free slots meanwhile.
    async with administrator(postgres) as connection, connection.transaction(isolation="repeatable_read"):
        paces: list[Any] = await connection.fetch(_PACES, tenant)
        rows = await connection.fetch(f"SELECT {columns} FROM proof_slot ORDER BY id")  # noqa: S608  # own names
        left = {str(row["call_id"]) for row in await connection.fetch(_LEFT, tenant)}
    changes = [SlotChange(**row) for row in rows]
    subjects = [
        Subject(**pace, changes=[change for change in changes if pace["id"] in (change.account_id, change.queue_id)])
        for pace in paces
    ]
    return subjects, left
