"""Limits how many pages read from the database at a time, and how long a statement takes. Independent of HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from app.database.connection import Connection
from app.database.pool import Transactions
from app.http.read_limit import ReadLimit

_STATEMENT_TIMEOUT: Final = "2s"


@dataclass(frozen=True, slots=True)
class SlotLimitedReads:
    """Runs only a few transactions at a time, per tenant and in all. Other connections stay free for the creation of calls."""

    database: Transactions
    limit: ReadLimit
    tenant_id: str | None
    """The tenant of the session. None: an operator. All operators together have as many slots as one tenant."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Runs one transaction. Raises Overloaded if no slot becomes free in time, and DatabaseUnavailable."""
        async with self.limit.slot(self.tenant_id or ""), self.database.transaction() as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class TimeLimitedReads:
    """Runs transactions in which a statement fails with DatabaseUnavailable (`timeout`) if it takes longer than two seconds."""

    database: Transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.database.transaction() as connection:
            await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'")
            yield connection


async def fetch(database: Transactions, statement: str, *values: object) -> list[Any]:
    """Returns the rows of one statement. Raises DatabaseUnavailable, also if it takes longer than _STATEMENT_TIMEOUT."""
    async with TimeLimitedReads(database).transaction() as connection:
        rows: list[Any] = await connection.fetch(statement, *values)
    return rows
