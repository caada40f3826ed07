"""Limits how long an SQL statement of the console's pages may take. Does not import FastAPI."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from app.database.connection import Connection
from app.database.pool import TransactionRunner

_STATEMENT_TIMEOUT: Final = "2s"


@dataclass(frozen=True, slots=True)
class TimeLimitedReads:
    """Runs transactions in which each statement may take at most two seconds.

    A longer statement raises DatabaseUnavailable with the reason `timeout`.
    """

    database: TransactionRunner

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.database.transaction() as connection:
            await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'")
            yield connection


async def fetch_with_time_limit(database: TransactionRunner, statement: str, *values: object) -> list[Any]:
    """Runs one statement and returns its rows. Raises DatabaseUnavailable if it fails or takes longer than two seconds."""
    async with TimeLimitedReads(database).transaction() as connection:
        rows: list[Any] = await connection.fetch(statement, *values)
    return rows
