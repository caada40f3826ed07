"""Opens every connection to Postgres: for SQLAlchemy's pool, the pool in pool.py, the listener and the migrations.

Postgres settings, such as `lock_timeout`, apply in one of two ways. On a direct connection they are set once, for the session.
Behind a pooler such as PgBouncer, consecutive transactions of one client may use different server connections. The settings are
then sent with each BEGIN, in the same round trip, and end with the transaction, so that they never affect another client.
"""

import itertools
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from app.database.errors import translate_connect_error
from app.database_url import DatabaseURL, Keepalive

CONNECT_TIMEOUT_S = 5.0
# Longer than Postgres's own timeout, so that Postgres cancels a slow statement. It is then certain that nothing was committed.
STATEMENT_TIMEOUT_S = 15.0

# `idle_in_transaction_session_timeout` limits how long a lost process holds its locks. `random_page_cost`: the default is meant
# for rotating disks and makes Postgres read all calls to find the newest ones of a large tenant.
SESSION_SETTINGS = {
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    "statement_timeout": "14s",
    "random_page_cost": "1.1",
}
# For the statements without SQLAlchemy, many of which run for every call. A statement that is prepared while a table is empty
# keeps its plan, a sequential scan, which slows down as the table grows until Postgres next analyzes it. Index plans are
# therefore enforced.
STATEMENT_POOL_SETTINGS = SESSION_SETTINGS | {
    "lock_timeout": "2s",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
# Creating an index over millions of rows takes long.
MIGRATION_SETTINGS = {"idle_in_transaction_session_timeout": "60s"}

# Make Postgres detect an unreachable client on its side of the socket. A pooler has its own settings for its sockets.
_SERVER_KEEPALIVE_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
# A commit must be flushed to disk. `remote_write` and `remote_apply` also flush it and are kept.
_SYNCHRONOUS_COMMIT_SQL = "coalesce(nullif(nullif(current_setting('synchronous_commit'), 'off'), 'local'), 'on')"
# A pooler that supports prepared statements renames them, because clients share a server connection. Then no statement has a
# name that asyncpg gave.
_POOLER_CHECK_COLUMNS_SQL = """pg_backend_pid() AS pid,
    EXISTS (SELECT FROM pg_prepared_statements WHERE starts_with(name, '__asyncpg_')) AS has_our_names"""


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection to Postgres, possibly through a pooler such as PgBouncer.

    Its attributes say whether there is a pooler, and what the pooler supports.
    """

    is_pooled = False
    # Whether prepared statements stay usable. False behind a pooler that does not support them (`_POOLER_CHECK_COLUMNS_SQL`).
    keeps_prepared_statements = True
    set_config_after_begin_sql = ""

    async def execute(self, query: str, *arguments: object, **options: Any) -> str:
        """Runs the query and returns Postgres's status, such as "INSERT 0 1".

        Behind a pooler, a BEGIN also sets the Postgres settings for its transaction, because a pooler keeps no settings of a
        session.
        """
        if self.is_pooled and query.startswith("BEGIN"):
            query += self.set_config_after_begin_sql
        status: str = await super().execute(query, *arguments, **options)
        return status


class Connector:
    def __init__(
        self, url: str, settings: Mapping[str, str], *, statement_timeout_s: float | None = STATEMENT_TIMEOUT_S
    ) -> None:
        """Parses the URL; does not connect. Raises DatabaseURLError if the URL is invalid.

        `settings` are the Postgres settings for all connections. A statement that takes longer than `statement_timeout_s` is
        canceled. If `statement_timeout_s` is None, only a `statement_timeout` in `settings` limits it.
        """
        self.url = DatabaseURL.parse(url)
        self._settings = settings
        self._statement_timeout_s = statement_timeout_s
        self._connect_timeout_s = self.url.connect_timeout_s or CONNECT_TIMEOUT_S
        self._last_connected_host: tuple[str, int] | None = None
        self._has_checked_sharing = False

    async def connect(self) -> Connection:
        """Connects to the first host that answers and satisfies `target_session_attrs`.

        Raises DatabaseUnavailable if there is no such host.
        """
        failure: Exception | None = None
        for host, session_attrs in self._connection_targets():
            try:
                connection = await self._connect_to(host, session_attrs)
            except Exception as error:
                # An error that a server returned says more than a failure to connect.
                if failure is None or isinstance(failure, OSError):
                    failure = error
            else:
                self._last_connected_host = host
                return connection
        if failure is None:
            raise RuntimeError("a URL has at least one candidate")
        translated = translate_connect_error(failure)
        if translated is None:
            raise failure
        raise translated from failure

    def _connection_targets(self) -> Iterator[tuple[tuple[str, int] | None, str | None]]:
        """Yields each host to try, as name and port, with the `target_session_attrs` that its server must satisfy.

        None, as a host or as `target_session_attrs`, stands for asyncpg's default.
        """
        given = self.url.connect_arguments.get("target_session_attrs")
        hosts: list[tuple[str, int] | None] = list(self.url.hosts or (None,))
        if given not in (None, "any", "prefer-standby"):
            # The host of the last connection is tried first. After a failover, connecting to the first host in the URL may take
            # the whole timeout each time.
            hosts.sort(key=lambda host: host != self._last_connected_host)
        choices = ("standby", "any") if given == "prefer-standby" else (given,)
        return ((host, session_attrs) for session_attrs, host in itertools.product(choices, hosts))

    async def _connect_to(self, host: tuple[str, int] | None, session_attrs: str | None) -> Connection:
        arguments = {**self.url.connect_arguments, "target_session_attrs": session_attrs}
        if host is not None:
            arguments["host"], arguments["port"] = host
        if self.url.statement_cache_size is not None:
            arguments["statement_cache_size"] = self.url.statement_cache_size
        connection = await self._open_connection(arguments)
        try:
            _set_keepalive(connection._transport.get_extra_info("socket"), self.url.keepalive)
            pid = await self._configure_session(connection)
            if not connection.keeps_prepared_statements and not self._has_checked_sharing:
                await self._reject_shared_connection(arguments, pid)
                self._has_checked_sharing = True
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open_connection(self, arguments: Mapping[str, Any]) -> Connection:
        connection: Connection = await asyncpg.connect(
            **arguments,
            timeout=self._connect_timeout_s,
            command_timeout=self._statement_timeout_s,
            server_settings=dict(self.url.server_settings),
            connection_class=Connection,
        )
        return connection

    async def _configure_session(self, connection: Connection) -> int:
        """Detects a pooler. Without a pooler, applies the settings to the session. Returns the pid of the Postgres backend.

        There is a pooler if this pid differs from the one that the server sent when the connection was opened.
        """
        pid = connection.get_server_pid()
        settings = _set_config_sql(
            {**self._settings, **_SERVER_KEEPALIVE_SETTINGS}, local_condition_sql="pg_backend_pid() <> $1"
        )
        # Prepared under a name even if the statement cache is off, like SQLAlchemy's statements.
        statement = await connection.prepare(f"SELECT {_POOLER_CHECK_COLUMNS_SQL}, {settings}", timeout=self._connect_timeout_s)
        row = await statement.fetchrow(pid, timeout=self._connect_timeout_s)
        connection.is_pooled = row["pid"] != pid
        connection.keeps_prepared_statements = not (connection.is_pooled and row["has_our_names"])
        connection.set_config_after_begin_sql = f" SELECT {_set_config_sql(self._settings, local_condition_sql='true')};"
        return int(row["pid"])

    async def _reject_shared_connection(self, arguments: Mapping[str, Any], pid: int) -> None:
        """Raises InvalidSQLStatementNameError if the pooler lets two clients share a server connection.

        Connects a second time with the same `arguments` of `asyncpg.connect`, and compares the process id of the Postgres
        backend with `pid`, that of the first connection.

        Prepared statements would fail on a shared connection. A pooler in session mode is accepted, because it does not share a
        server connection while its client is connected.
        """
        other = await self._open_connection(arguments)
        try:
            shared = await other.fetchval("SELECT pg_backend_pid()", timeout=self._connect_timeout_s) == pid
        finally:
            other.terminate()
        if shared:
            raise asyncpg.InvalidSQLStatementNameError("the pooler shares connections and keeps no prepared statements")


def _set_config_sql(settings: Mapping[str, str], *, local_condition_sql: str) -> str:
    """Returns SQL expressions, separated by commas, that apply the settings and make each commit wait for the disk.

    If the SQL condition `local_condition_sql` is true, the settings end with the transaction; otherwise, with the session.
    """
    values = {"synchronous_commit": _SYNCHRONOUS_COMMIT_SQL} | {name: f"'{value}'" for name, value in settings.items()}
    return ", ".join(f"set_config('{name}', {value}, {local_condition_sql})" for name, value in values.items())


def _set_keepalive(connected: socket.socket, keepalive: Keepalive) -> None:
    """Enables TCP keepalive, which detects a lost server while the connection is idle.

    Does nothing if `keepalive.on` is false, or for a Unix socket.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6) or not keepalive.on:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options: dict[str, Any] = {
        "TCP_KEEPIDLE": keepalive.idle_s,
        "TCP_KEEPINTVL": keepalive.interval_s,
        "TCP_KEEPCNT": keepalive.count,
        "TCP_USER_TIMEOUT": keepalive.unacknowledged_ms,
    }
    for name, value in options.items():
        # macOS lacks some of these options.
        if value is not None and (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
