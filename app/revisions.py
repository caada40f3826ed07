"""Finds out which schema revisions this version of Callgate knows.

Reads the migration files as text, and so imports neither Alembic nor SQLAlchemy.
"""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

_REVISION_PATTERN = re.compile(r'^(down_)?revision: [^=]+ = "(\w+)"$', re.MULTILINE)


def migrations_folder() -> Path:
    return Path(str(files("migrations")))


def newest_revision() -> str:
    """Returns the newest schema revision that this version of Callgate knows."""
    (newest,) = known_revisions().keys() - set(known_revisions().values())
    return newest


@cache
def known_revisions() -> dict[str, str | None]:
    """Returns all schema revisions that this version of Callgate knows, each with the revision before it as its value.

    The value of the first revision is None.
    """
    versions = (version.read_text() for version in migrations_folder().glob("versions/*.py"))
    found = [{bool(down): revision for down, revision in _REVISION_PATTERN.findall(version)} for version in versions]
    return {each[False]: each.get(True) for each in found}
