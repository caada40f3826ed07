"""What an error of the driver means: the one place that knows, for asyncpg's own errors and for SQLAlchemy's around them.

SQLAlchemy is not imported: commands that use asyncpg alone save its memory.
"""

import ssl

import asyncpg

from app.errors import DatabaseUnavailable

_RETRY_AFTER_S = 2
_POOL_TIMEOUT = ("sqlalchemy.exc", "TimeoutError")
_CHECK_VIOLATION, _READ_ONLY = "23514", "25006"
# By SQLSTATE or its class: https://www.postgresql.org/docs/current/errcodes-appendix.html. What is not here is a mistake in our
# SQL, or a row that a constraint refuses.
_REASONS: dict[str, str] = {
    "08": "connection_lost",
    "25": "unavailable",
    _READ_ONLY: "read_only",
    "25P03": "connection_lost",
    "26000": "prepared_statements",
    "28": "authentication",
    "3D": "no_such_database",
    "40": "conflict",
    "42501": "no_permission",
    "42703": "not_migrated",
    "42P01": "not_migrated",
    "42P05": "prepared_statements",
    "53": "resources",
    "53100": "disk_full",
    "53300": "too_many_connections",
    "55": "unavailable",
    "55P03": "locked",
    "57": "starting_or_stopping",
    "57014": "timeout",
    "58": "unavailable",
    "XX": "unavailable",
}
# A constraint, or a value that the column's type does not take; asyncpg uses their classes for what it cannot encode.
_REFUSALS = ("22", "23")
_HINTS: dict[str, str] = {
    "not_migrated": "run `callgate migrate`",
    "no_permission": "grant the role in CALLGATE_DATABASE_URL the missing right",
    "prepared_statements": "use PgBouncer 1.21 or newer with max_prepared_statements above 0",
}


def unavailable(error: BaseException, *, commit_in_doubt: bool = True) -> DatabaseUnavailable | None:
    """The error to raise, from this one, for trouble of Postgres or of the way to it; None for any other error.

    `commit_in_doubt` says whether a commit was on its way; it counts only when Postgres itself has not answered.
    """
    reason = _reason(error)
    if reason is None:
        return None
    told = DatabaseUnavailable(after_s=_RETRY_AFTER_S)
    told.reason = reason
    told.commit_in_doubt = commit_in_doubt and not _is_rolled_back(error, sqlstate_of(error))
    return told


def log_fields(error: DatabaseUnavailable) -> dict[str, str | None]:
    """The class and SQLSTATE only: the text may hold the statement's values."""
    cause = error.__cause__ or error
    return {
        "reason": error.reason,
        "error": type(_cause(cause)).__name__,
        "sqlstate": sqlstate_of(cause) or None,
        "hint": _HINTS.get(error.reason),
    }


def is_refusal(error: BaseException) -> bool:
    """Whether a constraint or a column's type refuses the values: repeating the statement is of no use."""
    return sqlstate_of(error)[:2] in _REFUSALS and not _is_rerouted(error)


def is_of_connection(error: BaseException) -> bool:
    """Whether an open connection must not be used again: its server takes no writes, or its state is unknown."""
    return sqlstate_of(error) == _READ_ONLY or isinstance(_cause(error), asyncpg.InternalClientError)


def sqlstate_of(error: BaseException) -> str:
    """Empty when it is no answer of Postgres."""
    return getattr(_cause(error), "sqlstate", None) or ""


def describe(error: DatabaseUnavailable) -> str:
    """What went wrong and, where that is known, what to do, in one line."""
    text = in_one_line(error.__cause__ or error)
    return f"{text}; {_HINTS[error.reason]}" if error.reason in _HINTS else text


def in_one_line(error: BaseException) -> str:
    """In the words of Postgres or of the system, which never repeat the password."""
    cause = _cause(error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def _reason(error: BaseException) -> str | None:
    cause, sqlstate = _cause(error), sqlstate_of(error)
    if reason := _REASONS.get(sqlstate) or _REASONS.get(sqlstate[:2]):
        return reason
    if _is_rerouted(error) or isinstance(cause, asyncpg.InvalidCachedStatementError):
        return "conflict"
    if _is_pool_timeout(cause):
        return "busy"
    if isinstance(cause, asyncpg.TargetServerAttributeNotMatched):
        return "no_suitable_server"
    if isinstance(cause, asyncpg.ClientConfigurationError):
        return "configuration"
    if isinstance(cause, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return "connection_lost"
    if isinstance(cause, ssl.SSLError) or (isinstance(cause, ConnectionError) and "SSL" in str(cause)):
        return "tls"
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(cause, OSError):
        return "unreachable"
    return "connection_lost" if getattr(error, "connection_invalidated", False) else None


def _cause(error: BaseException) -> BaseException:
    """asyncpg's own error, which SQLAlchemy wraps twice: as an error of the DBAPI, and as DBAPIError."""
    while (wrapped := getattr(error, "orig", None)) is not None:
        error = wrapped
    return error


def _is_pool_timeout(error: BaseException) -> bool:
    return (type(error).__module__, type(error).__name__) == _POOL_TIMEOUT


def _is_rerouted(error: BaseException) -> bool:
    """A partition was attached between the planning of an insert and its row: the default one does not take it any more.

    What a table's own CHECK refuses has that constraint's name.
    """
    return sqlstate_of(error) == _CHECK_VIOLATION and getattr(_cause(error), "constraint_name", None) is None


def _is_rolled_back(error: BaseException, sqlstate: str) -> bool:
    """Whether Postgres says that nothing was committed. A server that is shutting down may have committed before."""
    return _is_pool_timeout(error) or (sqlstate != "" and not sqlstate.startswith(("08", "57P", "40003")))
