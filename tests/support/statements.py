"""Records the SQL statements that the API sends to Postgres through asyncpg or SQLAlchemy, for each request."""

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import event

from app.database.engine import Database
from app.observability.context import bound_fields

# As many as the pool opens, so that each has a logger.
_CONNECTIONS = 12


@asynccontextmanager
async def recorded_statements(database: Database) -> AsyncIterator[dict[str, list[str]]]:
    """Yields a mapping from each request's X-Request-Id to its statements. Leaves out statements of background tasks."""
    sent: dict[str, list[str]] = defaultdict(list)

    def record(statement: str) -> None:
        if request_id := bound_fields().get("request_id"):
            sent[request_id].append(statement)

    def on_sqlalchemy(_: Any, __: Any, statement: str, *___: Any) -> None:
        record(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", on_sqlalchemy)
    async with AsyncExitStack() as loggers:
        async with AsyncExitStack() as opened:
            for _ in range(_CONNECTIONS):
                connection = await opened.enter_async_context(database.transaction())
                # asyncpg calls it in the context of the request.
                loggers.enter_context(connection.query_logger(lambda logged: record(logged.query)))
        yield sent
    event.remove(database.engine.sync_engine, "before_cursor_execute", on_sqlalchemy)
