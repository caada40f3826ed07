"""Migrates the database's schema and checks its revision. The migrations are part of the package.

Alembic is imported only when it is used, because the import takes 0.4 s and would slow down every start of the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncpg import InterfaceError, InternalClientError, PostgresError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database.engine import Database, Session
from app.database.errors import first_message_line
from app.errors import CommandFailed
from app.revisions import known_revisions, migrations_folder, newest_revision

if TYPE_CHECKING:
    from alembic.config import Config


class MigrationFailed(CommandFailed):
    """A migration failed. The message gives the cause, for example a lock timeout or a missing privilege."""


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Migrates the schema to `revision`. Must not be called inside an event loop. Concurrent migrations wait for each other.

    Raises MigrationFailed if a migration fails, and DatabaseUnavailable if no connection can be opened. A migration that has
    failed can be repeated. Most migrations are one transaction, so that a failure changes nothing. A migration that builds
    indexes concurrently is not one transaction, and may have made a part of its changes.
    """
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(alembic_config(database_url), revision)
    except (DBAPIError, CommandError, OSError, PostgresError, InterfaceError, InternalClientError) as error:
        raise MigrationFailed(f"the migration failed: {first_message_line(error)}") from error


async def applied_and_newest_revision(session: Session) -> tuple[str | None, str]:
    """Returns the schema's revision (None before the first migration) and the newest that this version of Callgate knows."""
    if await session.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None, newest_revision()
    return await session.scalar(text("SELECT version_num FROM alembic_version")), newest_revision()


async def applied_revision(database: Database) -> str | None:
    """Returns the schema's revision; None if the version table is empty.

    Raises DatabaseUnavailable if the database cannot be read, or has no version table because no migration has run.
    """
    async with database.begin() as session:
        revision: str | None = await session.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def is_newer_revision(revision: str | None) -> bool:
    """Returns whether the revision is unknown to this version of Callgate, which means that a newer version made the schema.

    Returns False for None, which means that there is no revision. This version can use a newer schema, because each schema
    stays compatible with the version of Callgate before it.
    """
    return revision is not None and revision not in known_revisions()


def is_usable_revision(revision: str | None) -> bool:
    """Returns whether this version of Callgate works with a schema of this revision: the newest it knows, or a newer one."""
    return revision == newest_revision() or is_newer_revision(revision)


async def revision_if_newer(database: Database) -> str | None:
    """Returns the schema's revision if a newer version of Callgate has made the schema, else None.

    Raises DatabaseUnavailable if the database cannot be read.
    """
    async with database.begin() as session:
        current, _ = await applied_and_newest_revision(session)
    return current if is_newer_revision(current) else None


def alembic_config(database_url: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.set_main_option("path_separator", "os")
    config.attributes["database_url"] = database_url
    return config
