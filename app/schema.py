"""The database's schema: made and checked by the migrations, which are part of the package."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.database import Session


class MigrationFailed(Exception):
    """The message says why in one line: a lock that was not to be had, a right that is missing."""


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Not inside an event loop. Two at a time wait for each other.

    Raises MigrationFailed; each migration is one transaction, so what failed has changed nothing.
    """
    try:
        command.upgrade(alembic_config(database_url), revision)
    except (DBAPIError, CommandError) as error:
        cause = getattr(error, "orig", None) or error
        raise MigrationFailed(f"the migration failed: {str(cause).splitlines()[0]}") from error


async def revisions(session: Session) -> tuple[str | None, str | None]:
    """The schema's revision, None before the first migration, and the one that this version of Callgate was made for."""
    head = ScriptDirectory.from_config(alembic_config("")).get_current_head()
    if await session.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None, head
    return await session.scalar(text("SELECT version_num FROM alembic_version")), head


def alembic_config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(str(files("migrations")))))
    config.set_main_option("path_separator", "os")
    config.attributes["database_url"] = database_url
    return config
