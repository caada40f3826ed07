"""Transactions in which a page reads: few at a time, and what takes too long is canceled. Independent of HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from app.database.connection import Connection
from app.database.pool import Transactions
from app.http.read_limit import ReadLimit

PAGE_SIZE: Final = 50
"""Lines on one page of a list."""
_STATEMENT_TIMEOUT: Final = "2s"


@dataclass(frozen=True, slots=True)
class LimitedReads:
    """The database for the pages of one process: few people read at a time, so that they take no connections of creations."""

    database: Transactions
    limit: ReadLimit
    tenant_id: str | None
    """The tenant of the session. Operators share their slots."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Runs one transaction in a slot of the tenant. Raises Overloaded without a slot, and DatabaseUnavailable."""
        async with self.limit.slot(self.tenant_id or ""), self.database.transaction() as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class PageReads:
    """The database for one page. A statement that takes too long raises DatabaseUnavailable with the reason `timeout`."""

    database: Transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.database.transaction() as connection:
            await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'")
            yield connection


async def fetch(database: Transactions, statement: str, *values: object) -> list[Any]:
    """Returns the rows of one statement, within the time of a page."""
    async with PageReads(database).transaction() as connection:
        rows: list[Any] = await connection.fetch(statement, *values)
    return rows
