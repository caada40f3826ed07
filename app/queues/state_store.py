"""Reads queues, the next call of each queue (the waiting call that is due first), and what may delay that call.

Uses no SQLAlchemy. `QueueState.from_row` reads a row of a statement that selects QUEUE_STATE_COLUMNS from QUEUE_STATE_TABLES.
"""
# ruff: noqa: S608  # Statements are put together from constants.

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.database.connection import Connection
from app.queues.store import QUEUE_COLUMNS, QUEUE_TABLES, QueueRow
from app.scheduling.grant_halt_sql import MAY_TAKE_GRANTS_SQL
from app.scheduling.pace import seconds_until_allowed_sql
from app.scheduling.refused_accounts import seconds_until_probe_sql


@dataclass(frozen=True, slots=True)
class PaceState:
    """The rate of a row in the table `pace` (the dialling limits of a queue or account), and which limits are reached now."""

    calls_per_second: float | None
    is_full: bool
    """Whether as many calls are under way as `max_concurrent` allows."""
    has_no_token: bool
    """Whether dialling a call now would exceed `calls_per_second`."""


@dataclass(frozen=True, slots=True)
class NextCall:
    """The waiting call of a queue that is due first, and what may keep a worker from dialling it."""

    not_before: datetime
    due_at: datetime
    is_halted: bool
    """Whether the dialling of all scheduled calls is halted (app.scheduling.grant_halts)."""
    is_tenant_suspended: bool
    has_hours: bool
    """Whether the queue or its tenant limits the hours in which calls may ring."""
    tries: int
    """How many attempts to dial the call have failed, because Twilio could not be reached or throttled requests."""
    is_account_refused: bool
    """Whether the account waits until its calls are tried again, because Twilio has refused them for the moment."""
    pace: PaceState
    account_pace: PaceState


@dataclass(frozen=True, slots=True)
class QueueState:
    queue: QueueRow
    read_at: datetime
    """The time of the query, by Postgres's clock."""
    next_call: NextCall | None
    """The waiting call that is due first. The value is None if no call waits."""
    under_way: int | None
    """How many of the queue's calls count toward `max_concurrent` now: they are under way, or their end is not known yet.

    The value is None if the queue has no row in `pace` (dialling limits).
    """

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "QueueState":
        """Returns the state that a row of a query holds. The first columns of the row must be QUEUE_STATE_COLUMNS."""
        queue = QueueRow.from_row(tuple(row.values())[:_QUEUE_COLUMN_COUNT])
        if row["due_at"] is None:
            return cls(queue, row["read_at"], None, row["own_in_use"])
        own, account = (
            PaceState(row[f"{of}_rate"], is_full=bool(row[f"{of}_is_full"]), has_no_token=bool(row[f"{of}_is_spent"]))
            for of in ("own", "account")
        )
        call = NextCall(**{name: row[name] for name in _NEXT_CALL_COLUMNS}, pace=own, account_pace=account)
        return cls(queue, row["read_at"], call, row["own_in_use"])


_QUEUE_COLUMN_COUNT: Final = 11
_NEXT_CALL_COLUMNS: Final = (
    "not_before",
    "due_at",
    "is_halted",
    "is_tenant_suspended",
    "has_hours",
    "tries",
    "is_account_refused",
)


def _join_pace_sql(subject_id: str, name: str) -> str:
    """Returns SQL for a LEFT JOIN with the row of `pace` (dialling limits) of an account or a queue.

    `subject_id` is SQL for the id of the account or queue. The names of the joined columns begin with `name`. If there is no
    row, the columns are null.
    """
    return f"""LEFT JOIN LATERAL (
        SELECT calls_per_second::float8 AS {name}_rate, coalesce(in_use >= max_concurrent, false) AS {name}_is_full,
            {seconds_until_allowed_sql("now()")} IS NOT NULL AS {name}_is_spent, in_use AS {name}_in_use,
            {seconds_until_probe_sql("now()")} IS NOT NULL AS {name}_is_refused
        FROM pace WHERE pace.subject_id = {subject_id}
    ) AS {name} ON true"""


QUEUE_STATE_COLUMNS: Final = f"""{QUEUE_COLUMNS}, clock_timestamp() AS read_at,
    NOT coalesce({MAY_TAKE_GRANTS_SQL}, true) AS is_halted,
    tenant.suspended_at IS NOT NULL AS is_tenant_suspended, coalesce(queue.hours, tenant.hours) IS NOT NULL AS has_hours,
    head.not_before, head.due_at, head.tries, own_rate, own_is_full, own_is_spent, own_in_use,
    account_rate, account_is_full, account_is_spent, coalesce(account_is_refused, false) AS is_account_refused"""
QUEUE_STATE_TABLES: Final = f"""{QUEUE_TABLES} JOIN tenant ON tenant.id = queue.tenant_id
    LEFT JOIN LATERAL (
        SELECT not_before, due_at, tries, account_id FROM scheduled_dial
        WHERE queue_id = queue.id ORDER BY due_at LIMIT 1
    ) AS head ON true
    {_join_pace_sql("queue.id", "own")}
    {_join_pace_sql("head.account_id", "account")}"""


async def find_queue_state(connection: Connection, *, tenant_id: str, name: str) -> QueueState | None:
    statement = f"SELECT {QUEUE_STATE_COLUMNS} FROM {QUEUE_STATE_TABLES} WHERE queue.tenant_id = $1 AND queue.name = $2"
    row = await connection.fetchrow(statement, tenant_id, name)
    return None if row is None else QueueState.from_row(row)
