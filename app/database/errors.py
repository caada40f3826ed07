"""Translates errors of asyncpg, also those that SQLAlchemy wraps, to DatabaseUnavailable.

Does not import SQLAlchemy, to save memory in commands that use only asyncpg.
"""

import ssl

import asyncpg

from app.errors import DatabaseUnavailable

_RETRY_AFTER_S = 2
_POOL_TIMEOUT_CLASS = ("sqlalchemy.exc", "TimeoutError")
_CHECK_VIOLATION, _READ_ONLY = "23514", "25006"
# By SQLSTATE or its class: https://www.postgresql.org/docs/current/errcodes-appendix.html. Any other SQLSTATE
# is an error in our SQL, or a row that violates a constraint.
_REASONS_BY_SQLSTATE: dict[str, str] = {
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
# A violated constraint, or a value that does not fit the column's type. asyncpg has the same classes for values it cannot
# encode.
_VALUE_REFUSAL_SQLSTATE_CLASSES = ("22", "23")
_HINTS_BY_REASON: dict[str, str] = {
    "not_migrated": "run `callgate migrate`",
    "no_permission": "grant the role in CALLGATE_DATABASE_URL the missing right",
    "prepared_statements": "use PgBouncer 1.21 or newer with max_prepared_statements above 0",
    "disk_full": "free space on the database server",
}
# The same statements can succeed if they are repeated.
_TEMPORARY_REASONS = frozenset(
    {
        "busy",
        "conflict",
        "connection_lost",
        "locked",
        "resources",
        "starting_or_stopping",
        "timeout",
        "too_many_connections",
        "unavailable",
    }
)


def translate_error(error: BaseException, *, commit_in_doubt: bool = True) -> DatabaseUnavailable | None:
    """Returns the DatabaseUnavailable to raise for a failure of Postgres or of the network; None for any other error.

    `commit_in_doubt` says whether a COMMIT may have been sent. The returned error's own `commit_in_doubt` is false if none was
    sent, or if the error proves that nothing was committed.
    """
    reason = _failure_reason(error)
    if reason is None:
        return None
    return _database_unavailable(reason, commit_in_doubt=commit_in_doubt and not _proves_rollback(error, sqlstate_of(error)))


def translate_connect_error(error: BaseException) -> DatabaseUnavailable | None:
    """Returns the DatabaseUnavailable to raise for a failure to connect; None for a bug in Callgate.

    The returned error's `reason` is `configuration` if Postgres or the driver refuses a value in the database URL.
    """
    reason = _failure_reason(error)
    if reason is None and isinstance(error, asyncpg.PostgresError | ValueError):
        reason = "configuration"
    return None if reason is None else _database_unavailable(reason, commit_in_doubt=False)


def failure_log_fields(error: DatabaseUnavailable) -> dict[str, str | None]:
    """Returns the log fields that describe the error: `reason`, `error` (a class name), `sqlstate` and `hint`.

    The last two may be None. The error's message is left out, because it may contain the values of the statement.
    """
    cause = error.__cause__ or error
    return {
        "reason": error.reason,
        "error": type(_unwrap(cause)).__name__,
        "sqlstate": sqlstate_of(cause) or None,
        "hint": _HINTS_BY_REASON.get(error.reason),
    }


def is_value_refused(error: BaseException) -> bool:
    """Returns whether a constraint or a column's type refuses the values, so that repeating the statement cannot succeed."""
    return sqlstate_of(error)[:2] in _VALUE_REFUSAL_SQLSTATE_CLASSES and not _is_partition_conflict(error)


def makes_connection_unusable(error: BaseException) -> bool:
    """Returns whether the error forbids reuse of its connection: the server is read-only, or the protocol state is unknown."""
    return sqlstate_of(error) == _READ_ONLY or isinstance(_unwrap(error), asyncpg.InternalClientError)


def sqlstate_of(error: BaseException) -> str:
    """Returns the SQLSTATE of the error, also if SQLAlchemy has wrapped it; an empty string if the error has none."""
    return getattr(_unwrap(error), "sqlstate", None) or ""


def is_temporary_failure(error: DatabaseUnavailable) -> bool:
    """Returns whether the same statements can succeed if they are repeated."""
    return error.reason in _TEMPORARY_REASONS


def original_error_message(error: DatabaseUnavailable) -> str:
    """Returns the first line of the message of the original error, which `error` replaces. The line contains no password."""
    return first_message_line(error.__cause__ or error)


def operator_advice(error: DatabaseUnavailable) -> str:
    """Returns advice for an operator in one line, such as "run the command again"."""
    if error.reason == "timeout":  # of a statement, or of a connection to an address that does not answer
        return "run the command again; if it fails again, check CALLGATE_DATABASE_URL"
    return (
        "run the command again"
        if is_temporary_failure(error)
        else _HINTS_BY_REASON.get(error.reason, "check CALLGATE_DATABASE_URL")
    )


def first_message_line(error: BaseException) -> str:
    """Returns the first line of the error message of Postgres or the operating system. The line contains no password.

    If the message is empty, returns the name of the error's class.
    """
    cause = _unwrap(error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def _database_unavailable(reason: str, *, commit_in_doubt: bool) -> DatabaseUnavailable:
    unavailable = DatabaseUnavailable(retry_after_s=_RETRY_AFTER_S)
    unavailable.reason = reason
    unavailable.commit_in_doubt = commit_in_doubt
    return unavailable


def _failure_reason(error: BaseException) -> str | None:
    cause, sqlstate = _unwrap(error), sqlstate_of(error)
    if reason := _REASONS_BY_SQLSTATE.get(sqlstate) or _REASONS_BY_SQLSTATE.get(sqlstate[:2]):
        return reason
    if _is_partition_conflict(error) or isinstance(cause, asyncpg.InvalidCachedStatementError):
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


def _unwrap(error: BaseException) -> BaseException:
    """Returns the original error, for example of asyncpg, without the errors in which SQLAlchemy has wrapped it."""
    while (wrapped := getattr(error, "orig", None)) is not None:
        error = wrapped
    return error


def _is_pool_timeout(error: BaseException) -> bool:
    return (type(error).__module__, type(error).__name__) == _POOL_TIMEOUT_CLASS


def _is_partition_conflict(error: BaseException) -> bool:
    """Returns whether the error says that a partition was attached between the planning of an insert and its execution.

    The default partition then refuses the row. The error names no constraint, in contrast to the error of a violated CHECK.
    """
    return sqlstate_of(error) == _CHECK_VIOLATION and getattr(_unwrap(error), "constraint_name", None) is None


def _proves_rollback(error: BaseException, sqlstate: str) -> bool:
    """Returns whether the error proves that nothing was committed. `sqlstate` is the SQLSTATE of the error, or empty.

    A lost connection or a server that shuts down proves nothing.
    """
    return _is_pool_timeout(error) or (sqlstate != "" and not sqlstate.startswith(("08", "57P", "40003")))
