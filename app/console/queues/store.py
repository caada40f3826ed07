"""SQL of the pages of queues, on asyncpg alone. Operators see the queues of all tenants."""
# ruff: noqa: S608  # Statements are put together from constants.

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.console.reads import PAGE_SIZE, fetch
from app.database.pool import Transactions
from app.queues.progress import WaitReasonName, wait_reason
from app.queues.store import COLUMNS, TABLES, NextCall, PaceState, QueueRow
from app.scheduling.guard_sql import MAY_GRANT
from app.scheduling.pace import wait_s

MAX_COUNTED: Final = 1_000
"""Waiting calls of one queue that the list counts."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue in the list."""

    queue: QueueRow
    waiting: int
    """The number ends at MAX_COUNTED + 1."""
    next_due_at: datetime | None
    wait_reason: WaitReasonName | None
    """What the call that is due first waits for; None: nothing, or no call waits."""
    under_way: int | None
    """Its calls that may be under way; None: they are not counted, because the queue has no pace."""


def _pace_state(subject_id: str, name: str) -> str:
    """Returns SQL that joins the state of a pace under this name, null if the subject has none."""
    return f"""LEFT JOIN LATERAL (
        SELECT calls_per_second::float8, coalesce(in_use >= max_concurrent, false) AS is_full,
            {wait_s("clock_timestamp()")} IS NOT NULL AS is_spent, in_use
        FROM pace WHERE pace.subject_id = {subject_id}
    ) AS {name} ON true"""


_LIST = f"""
    SELECT {COLUMNS}, waiting.number AS waiting, tenant.suspended_at IS NOT NULL AS is_tenant_suspended,
        coalesce(queue.hours, tenant.hours) IS NOT NULL AS has_hours, clock_timestamp() AS read_at,
        NOT coalesce({MAY_GRANT}, true) AS is_halted, head.not_before, head.due_at, head.tries,
        own.calls_per_second AS own_rate, own.is_full AS own_is_full, own.is_spent AS own_is_spent, own.in_use,
        account.calls_per_second AS account_rate, account.is_full AS account_is_full, account.is_spent AS account_is_spent
    FROM {TABLES} JOIN tenant ON tenant.id = queue.tenant_id
        CROSS JOIN LATERAL (
            SELECT count(*) AS number
            FROM (SELECT FROM scheduled_dial WHERE queue_id = queue.id LIMIT {MAX_COUNTED + 1}) AS some_dials
        ) AS waiting
        LEFT JOIN LATERAL (
            SELECT not_before, due_at, tries, account_id FROM scheduled_dial
            WHERE queue_id = queue.id ORDER BY due_at LIMIT 1
        ) AS head ON true
        {_pace_state("queue.id", "own")}
        {_pace_state("head.account_id", "account")}
    WHERE {{which}} ORDER BY queue.tenant_id, queue.name LIMIT {PAGE_SIZE + 1}
"""
_ALL: Final = _LIST.format(which="(queue.tenant_id, queue.name) > ($1, $2)")
_OF_TENANT: Final = _LIST.format(which="queue.tenant_id = $1 AND queue.name > $2")
_ONE: Final = _LIST.format(which="queue.tenant_id = $1 AND queue.name = $2")
_QUEUE_COLUMNS: Final = 11


async def list_queue_lines(
    database: Transactions, tenant_id: str | None, *, after: tuple[str, str] = ("", "")
) -> tuple[list[QueueLine], bool]:
    """Returns a page of queues by tenant and name, and whether there are others. `tenant_id` None: those of all tenants.

    `after` has the tenant and the name of the last one of the page before.
    """
    statement, values = (_ALL, after) if tenant_id is None else (_OF_TENANT, (tenant_id, after[1]))
    lines = [_line(row) for row in await fetch(database, statement, *values)]
    return lines[:PAGE_SIZE], len(lines) > PAGE_SIZE


async def find_queue_line(database: Transactions, tenant_id: str, name: str) -> QueueLine | None:
    return next((_line(row) for row in await fetch(database, _ONE, tenant_id, name)), None)


def _line(row: Any) -> QueueLine:
    queue, values = QueueRow.of(tuple(row)[:_QUEUE_COLUMNS]), dict(row)
    call = None if values["due_at"] is None else _next_call(values)
    return QueueLine(queue, values["waiting"], values["due_at"], wait_reason(queue, call), values["in_use"])


def _next_call(values: Mapping[str, Any]) -> NextCall:
    names = ("read_at", "not_before", "due_at", "is_halted", "is_tenant_suspended", "has_hours", "tries")
    own, account = _state(values, "own"), _state(values, "account")
    return NextCall(**{name: values[name] for name in names}, pace=own, account_pace=account)


def _state(values: Mapping[str, Any], of: str) -> PaceState:
    is_full, is_spent = bool(values[f"{of}_is_full"]), bool(values[f"{of}_is_spent"])
    return PaceState(values[f"{of}_rate"], is_full=is_full, is_spent=is_spent)
