"""The database's schema: made and checked by the migrations, which are part of the package."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config


def migrate(database_url: str, *, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Not inside an event loop. Two at a time wait for each other."""
    command.upgrade(alembic_config(database_url), revision)


def alembic_config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(str(files("migrations")))))
    config.set_main_option("path_separator", "os")
    config.attributes["database_url"] = database_url
    return config
