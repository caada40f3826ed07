"""The database's schema: made and checked by the migrations, which are part of the package.

Alembic is imported when it is used: with every dialect that it knows it takes 0.4 s, which no start of the API shall pay.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from alembic.config import Config


class MigrationFailed(Exception):
    """The message says why in one line: a lock that was not to be had, a right that is missing."""


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Not inside an event loop. Two at a time wait for each other.

    Raises MigrationFailed; each migration is one transaction, so what failed has changed nothing.
    """
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(alembic_config(database_url), revision)
    except (DBAPIError, CommandError) as error:
        cause = getattr(error, "orig", None) or error
        raise MigrationFailed(f"the migration failed: {str(cause).splitlines()[0]}") from error


def alembic_config(database_url: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(str(files("migrations")))))
    config.set_main_option("path_separator", "os")
    config.attributes["database_url"] = database_url
    return config
