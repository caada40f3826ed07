"""Queues with the call of each that is due first, and what it waits for: one statement for one queue or for a list.

SQL on asyncpg alone, as in `store`. `QueueState.of` reads the rows of a statement with STATE_COLUMNS and STATE_TABLES.
"""
# ruff: noqa: S608  # Statements are put together from constants.

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.database.connection import Connection
from app.queues.store import COLUMNS, TABLES, QueueRow
from app.scheduling.guard_sql import MAY_GRANT
from app.scheduling.pace import wait_s_sql


@dataclass(frozen=True, slots=True)
class PaceState:
    """What one row of `pace` allows now."""

    calls_per_second: float | None
    is_full: bool
    """Whether as many calls are under way as `max_concurrent` allows."""
    is_spent: bool
    """Whether there is no token now."""


@dataclass(frozen=True, slots=True)
class NextCall:
    """The call of a queue that is due first, and what it waits for."""

    not_before: datetime
    due_at: datetime
    is_halted: bool
    """Whether no calls are granted at all (app.scheduling.guard)."""
    is_tenant_suspended: bool
    has_hours: bool
    """Whether the queue or its tenant has hours."""
    tries: int
    """How often it was granted before."""
    pace: PaceState
    account_pace: PaceState


@dataclass(frozen=True, slots=True)
class QueueState:
    queue: QueueRow
    read_at: datetime
    """Postgres's clock."""
    next_call: NextCall | None
    """None: no call waits."""
    under_way: int | None
    """Its calls that may be under way; None: they are not counted, because the queue has no pace."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "QueueState":
        """Returns the queue of a row that begins with STATE_COLUMNS."""
        queue = QueueRow.of(tuple(row.values())[:_QUEUE_COLUMNS])
        if row["due_at"] is None:
            return cls(queue, row["read_at"], None, row["own_in_use"])
        own, account = (
            PaceState(row[f"{of}_rate"], is_full=bool(row[f"{of}_is_full"]), is_spent=bool(row[f"{of}_is_spent"]))
            for of in ("own", "account")
        )
        call = NextCall(**{name: row[name] for name in _OF_CALL}, pace=own, account_pace=account)
        return cls(queue, row["read_at"], call, row["own_in_use"])


_QUEUE_COLUMNS: Final = 11
_OF_CALL: Final = ("not_before", "due_at", "is_halted", "is_tenant_suspended", "has_hours", "tries")


def _pace_state(subject_id: str, name: str) -> str:
    """Returns SQL that joins the state of a pace, null if the subject has none."""
    return f"""LEFT JOIN LATERAL (
        SELECT calls_per_second::float8 AS {name}_rate, coalesce(in_use >= max_concurrent, false) AS {name}_is_full,
            {wait_s_sql("clock_timestamp()")} IS NOT NULL AS {name}_is_spent, in_use AS {name}_in_use
        FROM pace WHERE pace.subject_id = {subject_id}
    ) AS {name} ON true"""


STATE_COLUMNS: Final = f"""{COLUMNS}, clock_timestamp() AS read_at, NOT coalesce({MAY_GRANT}, true) AS is_halted,
    tenant.suspended_at IS NOT NULL AS is_tenant_suspended, coalesce(queue.hours, tenant.hours) IS NOT NULL AS has_hours,
    head.not_before, head.due_at, head.tries, own_rate, own_is_full, own_is_spent, own_in_use,
    account_rate, account_is_full, account_is_spent"""
STATE_TABLES: Final = f"""{TABLES} JOIN tenant ON tenant.id = queue.tenant_id
    LEFT JOIN LATERAL (
        SELECT not_before, due_at, tries, account_id FROM scheduled_dial
        WHERE queue_id = queue.id ORDER BY due_at LIMIT 1
    ) AS head ON true
    {_pace_state("queue.id", "own")}
    {_pace_state("head.account_id", "account")}"""


async def find_queue_state(connection: Connection, *, tenant_id: str, name: str) -> QueueState | None:
    statement = f"SELECT {STATE_COLUMNS} FROM {STATE_TABLES} WHERE queue.tenant_id = $1 AND queue.name = $2"
    row = await connection.fetchrow(statement, tenant_id, name)
    return None if row is None else QueueState.of(row)
