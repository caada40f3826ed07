"""The database's schema: made and checked by the migrations, which are part of the package.

Alembic is imported when it is used: with every dialect that it knows it takes 0.4 s, which no start of the API shall pay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncpg import InterfaceError, InternalClientError, PostgresError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database.engine import Database, Session
from app.database.errors import in_one_line
from app.errors import CommandFailed
from app.revisions import head, known_revisions, migrations_folder

if TYPE_CHECKING:
    from alembic.config import Config


class MigrationFailed(CommandFailed):
    """The message says why in one line: a lock that was not to be had, a right that is missing."""


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Not inside an event loop. Two at a time wait for each other.

    Raises MigrationFailed, and DatabaseUnavailable when there is no connection to be had; each migration is one transaction, so
    what failed has changed nothing.
    """
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(alembic_config(database_url), revision)
    except (DBAPIError, CommandError, OSError, PostgresError, InterfaceError, InternalClientError) as error:
        raise MigrationFailed(f"the migration failed: {in_one_line(error)}") from error


async def revisions(session: Session) -> tuple[str | None, str]:
    """The schema's revision, None before the first migration, and the one that this version of Callgate was made for."""
    if await session.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None, head()
    return await session.scalar(text("SELECT version_num FROM alembic_version")), head()


async def applied_revision(database: Database) -> str | None:
    """The schema's revision. Raises DatabaseUnavailable, also when no migration has run at all."""
    async with database.begin() as session:
        revision: str | None = await session.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def is_newer(revision: str | None) -> bool:
    """Whether a newer version of Callgate made this schema, which takes nothing away that this one needs."""
    return revision is not None and revision not in known_revisions()


def is_usable(revision: str | None) -> bool:
    """Whether this version's migrations have run."""
    return revision == head() or is_newer(revision)


async def newer_revision(database: Database) -> str | None:
    """The schema's revision if it is newer than this version. Raises DatabaseUnavailable."""
    async with database.begin() as session:
        current, _ = await revisions(session)
    return current if is_newer(current) else None


def alembic_config(database_url: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.set_main_option("path_separator", "os")
    config.attributes["database_url"] = database_url
    return config
