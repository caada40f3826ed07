"""How every connection to Postgres is made: of SQLAlchemy's pool, the hot statements, the listener and the migrations.

What a session needs is set in one of two ways. Directly connected, it is set once for the session. Behind a pooler such as
PgBouncer the next transaction may be another session's, so it is set for each transaction, in the round trip that begins it:
nothing is lost with a server connection, and nothing stays on it for the next client.
"""

import itertools
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg

from app.database.errors import unavailable
from app.database_url import DatabaseURL, Keepalive

CONNECT_TIMEOUT_S = 5.0
# Longer than the server's own: it is Postgres that ends a slow statement, and then it is known that nothing was committed.
STATEMENT_TIMEOUT_S = 15.0

# A replica that disappears in mid-transaction holds its locks for no longer than `idle_in_transaction_session_timeout`.
# `random_page_cost`: the default, for disks that turn, makes Postgres read all calls to find the newest of one large tenant.
SESSION = {
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    "statement_timeout": "14s",
    "random_page_cost": "1.1",
}
# A statement that is prepared while a table is empty keeps the plan that was right then, which is to read all of it: until
# Postgres next looks at how large it is, each execution takes longer than the one before.
HOT_SESSION = SESSION | {
    "lock_timeout": "2s",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
# An index of millions of rows takes its time.
MIGRATION_SESSION = {"idle_in_transaction_session_timeout": "60s"}

# Those of the server's own socket, so that it notices a machine that has disappeared. A pooler has its own for its sockets.
_SERVER_SOCKET = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
# A commit counts only if Postgres has flushed it: `remote_write` and `remote_apply` do that, too, and are left as they are.
_SYNCHRONOUS_COMMIT = "coalesce(nullif(nullif(current_setting('synchronous_commit'), 'off'), 'local'), 'on')"
# A pooler that keeps prepared statements, for clients that share a connection, gives them names of its own.
_POOLER = """pg_backend_pid() AS pid,
    EXISTS (SELECT FROM pg_prepared_statements WHERE starts_with(name, '__asyncpg_')) AS has_our_names"""


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """Knows whether a pooler is in between: that answers with a process id of its own making."""

    is_pooled = False
    # Whether statements prepared here are ours alone: Postgres has them by names that the pooler gives them.
    keeps_statements = True
    each_transaction = ""

    async def execute(self, query: str, *arguments: object, **options: Any) -> str:
        if self.is_pooled and query.startswith("BEGIN"):
            query += self.each_transaction
        status: str = await super().execute(query, *arguments, **options)
        return status


class Connector:
    def __init__(
        self, url: str, settings: Mapping[str, str], *, statement_timeout_s: float | None = STATEMENT_TIMEOUT_S
    ) -> None:
        """Raises DatabaseURLError."""
        self.url = DatabaseURL.parse(url)
        self._settings = settings
        self._statement_timeout_s = statement_timeout_s
        self._timeout_s = self.url.connect_timeout_s or CONNECT_TIMEOUT_S
        self._last_good: tuple[str, int] | None = None
        self._is_known_not_to_share = False

    async def connect(self) -> Connection:
        """To the first host that is of the wanted kind. Raises DatabaseUnavailable, and nothing was sent then."""
        failure: Exception | None = None
        for host, target in self._candidates():
            try:
                connection = await self._connect_to(host, target)
            except Exception as error:
                # What a server said tells more than that another one is away.
                if failure is None or isinstance(failure, OSError):
                    failure = error
            else:
                self._last_good = host
                return connection
        if failure is None:
            raise RuntimeError("a URL has at least one candidate")
        told = unavailable(failure, commit_in_doubt=False)
        if told is None:
            raise failure
        raise told from failure

    def _candidates(self) -> Iterator[tuple[tuple[str, int] | None, str | None]]:
        target = self.url.arguments.get("target_session_attrs")
        hosts: list[tuple[str, int] | None] = list(self.url.hosts or (None,))
        if target not in (None, "any", "prefer-standby"):
            # After a fail-over the first host may be one that lets each attempt wait until its time is up.
            hosts.sort(key=lambda host: host != self._last_good)
        targets = ("standby", "any") if target == "prefer-standby" else (target,)
        return ((host, target) for target, host in itertools.product(targets, hosts))

    async def _connect_to(self, host: tuple[str, int] | None, target: str | None) -> Connection:
        arguments = {**self.url.arguments, "target_session_attrs": target}
        if host is not None:
            arguments["host"], arguments["port"] = host
        if self.url.prepared_statements is not None:
            arguments["statement_cache_size"] = self.url.prepared_statements
        connection = await self._open(arguments)
        try:
            _watch(connection._transport.get_extra_info("socket"), self.url.keepalive)
            pid = await self._prepare(connection)
            if not connection.keeps_statements and not self._is_known_not_to_share:
                await self._refuse_shared(arguments, pid)
                self._is_known_not_to_share = True
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open(self, arguments: Mapping[str, Any]) -> Connection:
        connection: Connection = await asyncpg.connect(
            **arguments,
            timeout=self._timeout_s,
            command_timeout=self._statement_timeout_s,
            server_settings=dict(self.url.server_settings),
            connection_class=Connection,
        )
        return connection

    async def _prepare(self, connection: Connection) -> int:
        """Finds out whether a pooler is there; if so, the settings end with this statement. Returns Postgres's pid."""
        pid = connection.get_server_pid()
        settings = _set({**self._settings, **_SERVER_SOCKET}, local="pg_backend_pid() <> $1")
        # Prepared by a name, whatever size the cache has: SQLAlchemy's are, too.
        statement = await connection.prepare(f"SELECT {_POOLER}, {settings}", timeout=self._timeout_s)
        row = await statement.fetchrow(pid, timeout=self._timeout_s)
        connection.is_pooled = row["pid"] != pid
        connection.keeps_statements = not (connection.is_pooled and row["has_our_names"])
        connection.each_transaction = f" SELECT {_set(self._settings, local='true')};"
        return int(row["pid"])

    async def _refuse_shared(self, arguments: Mapping[str, Any], pid: int) -> None:
        """Raises what Postgres sooner or later would, when another client gets the same server connection at once.

        Poolers in session mode give it to nobody else before its client has gone.
        """
        other = await self._open(arguments)
        try:
            shared = await other.fetchval("SELECT pg_backend_pid()", timeout=self._timeout_s) == pid
        finally:
            other.terminate()
        if shared:
            raise asyncpg.InvalidSQLStatementNameError("the pooler shares connections and keeps no prepared statements")


def _set(settings: Mapping[str, str], *, local: str) -> str:
    values = {"synchronous_commit": _SYNCHRONOUS_COMMIT} | {name: f"'{value}'" for name, value in settings.items()}
    return ", ".join(f"set_config('{name}', {value}, {local})" for name, value in values.items())


def _watch(connected: socket.socket, keepalive: Keepalive) -> None:
    """So that a server that has disappeared is noticed before anybody waits for its answer."""
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
        # macOS has not all of them.
        if value is not None and (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
