"""What an error of Postgres, or of the way to it, means."""

import asyncpg

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING_CLASSES = frozenset({"08", "25", "40", "53", "55", "57", "58"})
_UNDEFINED_TABLE, _UNDEFINED_COLUMN = "42P01", "42703"
_CHECK_VIOLATION = "23514"


def sqlstate_of(error: BaseException | None) -> str:
    """Of an error of asyncpg's, or of SQLAlchemy's over it."""
    return getattr(error, "sqlstate", None) or ""


def is_passing(error: BaseException | None) -> bool:
    """Postgres's trouble, no mistake of ours: read-only after a failover, deadlock, out of disk, cancelled, shutting down.

    Or, of several servers in the URL, none of the wanted kind.
    """
    return sqlstate_of(error)[:2] in _PASSING_CLASSES or isinstance(error, asyncpg.TargetServerAttributeNotMatched)


def is_rerouted(error: BaseException | None) -> bool:
    """A partition was attached between the planning of an insert and its row: the default one does not take it any more.

    What a table's own CHECK refuses has that constraint's name.
    """
    return sqlstate_of(error) == _CHECK_VIOLATION and getattr(error, "constraint_name", None) is None


def is_unmigrated(error: BaseException | None) -> bool:
    return sqlstate_of(error) in (_UNDEFINED_TABLE, _UNDEFINED_COLUMN)
