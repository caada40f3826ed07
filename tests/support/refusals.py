"""Makes Postgres refuse changes of a table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

RAISE_EXCEPTION = "P0001"
"""An SQLSTATE that Callgate does not translate to DatabaseUnavailable."""
QUERY_CANCELED = "57014"
"""The SQLSTATE of a canceled statement, which Callgate translates to DatabaseUnavailable."""


@asynccontextmanager
async def refused_by_postgres(database_url: str, change: str, sqlstate: str = RAISE_EXCEPTION) -> AsyncIterator[None]:
    """Makes Postgres refuse the change, such as "UPDATE ON call", with this SQLSTATE until the context ends."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        await connection.execute(f"""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{sqlstate}'; END $$;
            CREATE TRIGGER refuse BEFORE {change} FOR EACH ROW EXECUTE FUNCTION refuse();
        """)
        try:
            yield
        finally:
            await connection.execute("DROP FUNCTION refuse() CASCADE")
    finally:
        await connection.close()
