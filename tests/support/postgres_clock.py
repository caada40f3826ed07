"""A Postgres whose clock differs from that of the machine."""

from sqlalchemy import make_url

from app.database.engine import Database

# In a session whose search_path begins with this schema, these functions replace Postgres's own ones.
_OTHER_CLOCK = """CREATE OR REPLACE FUNCTION "{schema}".{name}() RETURNS timestamptz STABLE LANGUAGE sql
    AS $$ SELECT pg_catalog.{name}() + interval '{offset}' $$"""


async def url_with_other_clock(database: Database, url: str, *, offset: str) -> str:
    """Returns a URL for the database at `url`. In its sessions, Postgres's clock is ahead by `offset`."""
    schema = f"clock {offset}".replace(" ", "_")
    await database.fetch(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    for name in ("clock_timestamp", "now"):
        await database.fetch(_OTHER_CLOCK.format(schema=schema, name=name, offset=offset))
    options = {"options": f'-csearch_path="{schema}",public,pg_catalog'}
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)
