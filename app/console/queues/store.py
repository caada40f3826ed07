"""SQL of the list of queues. Operators see the queues of all tenants."""
# ruff: noqa: S608  # Statements are put together from constants.

from dataclasses import dataclass
from typing import Final

from app.console.page_size import PAGE_SIZE
from app.console.reads import fetch_with_time_limit
from app.database.pool import TransactionRunner
from app.queues.state_store import QUEUE_STATE_COLUMNS, QUEUE_STATE_TABLES, QueueState

MAX_COUNTED_CALLS: Final = 1_000
"""Maximum number of waiting calls that the list counts for one queue."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue, as a line of the console's list of queues."""

    state: QueueState
    waiting: int
    """The number of calls that wait in the queue. MAX_COUNTED_CALLS + 1 stands for any number above MAX_COUNTED_CALLS."""


_LIST_QUEUES = f"""
    SELECT {QUEUE_STATE_COLUMNS}, waiting.number AS waiting
    FROM {QUEUE_STATE_TABLES} CROSS JOIN LATERAL (
        SELECT count(*) AS number
        FROM (SELECT FROM scheduled_dial WHERE queue_id = queue.id LIMIT {MAX_COUNTED_CALLS + 1}) AS some_dials
    ) AS waiting
    WHERE {{which}} ORDER BY queue.tenant_id, queue.name LIMIT {PAGE_SIZE + 1}
"""
_LIST_OF_ALL: Final = _LIST_QUEUES.format(which="(queue.tenant_id, queue.name) > ($1, $2)")
_LIST_OF_TENANT: Final = _LIST_QUEUES.format(which="queue.tenant_id = $1 AND queue.name > $2")


async def list_queue_lines(
    database: TransactionRunner, tenant_id: str | None, *, after: tuple[str, str] = ("", "")
) -> tuple[list[QueueLine], bool]:
    """Returns a page of queues, sorted by tenant and name, and whether a further page follows.

    If `tenant_id` is None, the page has the queues of all tenants. `after` has the tenant and the name of the last queue on the
    previous page.
    """
    statement, values = (_LIST_OF_ALL, after) if tenant_id is None else (_LIST_OF_TENANT, (tenant_id, after[1]))
    lines = [
        QueueLine(QueueState.from_row(row), row["waiting"]) for row in await fetch_with_time_limit(database, statement, *values)
    ]
    return lines[:PAGE_SIZE], len(lines) > PAGE_SIZE
