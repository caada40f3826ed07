"""Limits how many transactions the console's pages run at a time, and how long a statement may take. Independent of HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from app.database.connection import Connection
from app.database.pool import TransactionRunner
from app.http.concurrency import ConcurrencyLimit

_STATEMENT_TIMEOUT: Final = "2s"


@dataclass(frozen=True, slots=True)
class SlotLimitedReads:
    """Runs only a few transactions at a time, per tenant and in total. So connections stay free for the creation of calls."""

    database: TransactionRunner
    limit: ConcurrencyLimit
    tenant_id: str | None
    """The tenant of the session; None for an operator. All operators together may run as many transactions as one tenant."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Runs one transaction.

        Raises DatabaseUnavailable, and Overloaded if the limit does not allow another transaction in time.
        """
        async with self.limit.slot(self.tenant_id or ""), self.database.transaction() as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class TimeLimitedReads:
    """Runs transactions whose statements may take two seconds.

    A longer statement raises DatabaseUnavailable with the reason `timeout`.
    """

    database: TransactionRunner

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.database.transaction() as connection:
            await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'")
            yield connection


async def fetch_with_time_limit(database: TransactionRunner, statement: str, *values: object) -> list[Any]:
    """Runs one statement and returns its rows. Raises DatabaseUnavailable, also if the statement takes over two seconds."""
    async with TimeLimitedReads(database).transaction() as connection:
        rows: list[Any] = await connection.fetch(statement, *values)
    return rows
