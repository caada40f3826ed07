"""SQL of the console's sessions. Functions that get a connection never commit."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app.database.connection import Connection
from app.database.pool import StatementPool


@dataclass(frozen=True, slots=True)
class NewSession:
    id: UUID
    token_hash: bytes
    kind: str
    name: str
    key_id: UUID | None
    tenant_id: str | None
    scopes: list[str] | None


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session that has not ended, with the current state of its key and its tenant."""

    id: UUID
    kind: str
    name: str
    key_id: UUID | None
    tenant_id: str | None
    scopes: list[str]
    is_suspended: bool
    max_in_flight: int | None
    expires_at: datetime
    is_recently_seen: bool
    """Whether `seen_at`, the time of the last use, is less than a minute old. If so, `seen_at` is not updated."""


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session that has not ended, or a one-time link that can still be used.

    `kind` is the way of logging in: `key`, `link` or `oidc`. `is_unused_link` is true for a link and false for a session.
    """

    id: UUID
    kind: str
    name: str
    tenant_id: str | None
    created_at: datetime
    seen_at: datetime | None
    """The time of the person's last request, accurate to about a minute. None for an unused link."""
    expires_at: datetime

    @property
    def is_unused_link(self) -> bool:
        return self.seen_at is None


_FROM_KEY_AND_TENANT_SQL = """
    FROM console_session AS session
    LEFT JOIN api_key AS key ON key.id = key_id
    LEFT JOIN tenant ON tenant.id = coalesce(key.tenant_id, session.tenant_id)
"""
_HAS_NOT_ENDED_SQL = """
    session.revoked_at IS NULL AND session.expires_at > now() AND seen_at > now() - {idle}::interval
    AND key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > now())
"""
_FIND_SESSION = f"""
    SELECT session.id, kind, session.name, key_id, tenant.id, coalesce(key.scopes, session.scopes),
        suspended_at IS NOT NULL, max_in_flight, session.expires_at, seen_at > now() - interval '1 minute'
    {_FROM_KEY_AND_TENANT_SQL} WHERE token_hash = $1 AND {_HAS_NOT_ENDED_SQL.format(idle="$2")}
"""
_LIST_SESSIONS = f"""
    SELECT session.id, kind, session.name, tenant.id, session.created_at, nullif(seen_at, session.expires_at),
        session.expires_at
    {_FROM_KEY_AND_TENANT_SQL} WHERE {_HAS_NOT_ENDED_SQL.format(idle="$1")} ORDER BY session.id DESC
"""


async def find_session(database: StatementPool, token_hash: bytes, *, idle: timedelta) -> StoredSession | None:
    """Returns the session whose cookie has this hash; None if there is no such session, or if it has ended.

    A session ends when it or its API key expires or is revoked, and after the time `idle` without use by the person.
    """
    rows = await database.fetch(_FIND_SESSION, token_hash, idle)
    return StoredSession(*rows[0]) if rows else None


async def list_sessions(database: StatementPool, *, idle: timedelta) -> list[ListedSession]:
    """Returns the sessions that have not ended and the one-time links that can still be used, the newest first."""
    return [ListedSession(*row) for row in await database.fetch(_LIST_SESSIONS, idle)]


async def add_session(connection: Connection, session: NewSession, *, lifetime: timedelta) -> bool:
    """Adds a session or, if its kind is `link`, a one-time link. Deletes all sessions and links that expired over a day ago.

    Returns False, and adds nothing, if the tenant of the session does not exist.
    """
    await connection.execute("DELETE FROM console_session WHERE expires_at < now() - interval '1 day'")
    statement = """INSERT INTO console_session (id, token_hash, kind, name, key_id, tenant_id, scopes, expires_at, seen_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, now() + $8::interval, CASE $3 WHEN 'link' THEN now() + $8 ELSE now() END
        WHERE $6::text IS NULL OR EXISTS (SELECT FROM tenant WHERE id = $6) RETURNING true"""
    values = (session.id, session.token_hash, session.kind, session.name, session.key_id, session.tenant_id, session.scopes)
    return bool(await connection.fetchval(statement, *values, lifetime))


async def start_session_with_link(
    connection: Connection, link_hash: bytes, *, token_hash: bytes, lifetime: timedelta
) -> tuple[UUID, str] | None:
    """Turns a one-time link into a session, and returns the session's id and name.

    Returns None if there is no such link, or if it was used or has expired.
    """
    statement = """UPDATE console_session
        SET token_hash = $2, created_at = now(), seen_at = now(), expires_at = now() + $3::interval
        WHERE token_hash = $1 AND kind = 'link' AND revoked_at IS NULL AND expires_at > now() RETURNING id, name"""
    row = await connection.fetchrow(statement, link_hash, token_hash, lifetime)
    return tuple(row) if row else None


async def record_session_use(connection: Connection, session_id: UUID) -> None:
    """Records that a person uses the session now. An unused session ends after some time."""
    await connection.execute("UPDATE console_session SET seen_at = now() WHERE id = $1", session_id)


async def revoke_session(connection: Connection, session_id: UUID) -> str | None:
    """Ends a session or an unused one-time link. Returns the id of the session's tenant, or "" for an operator's session.

    Returns None if there is no such session, or if it has already ended.
    """
    statement = """UPDATE console_session AS session SET revoked_at = now()
        WHERE id = $1 AND revoked_at IS NULL AND expires_at > now()
        RETURNING coalesce(tenant_id, (SELECT tenant_id FROM api_key WHERE api_key.id = key_id), '')"""
    tenant_id: str | None = await connection.fetchval(statement, session_id)
    return tenant_id
