"""Starts, finds and ends sessions of the console. Not aware of HTTP."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from app.audit.events import Actor
from app.audit.store import record
from app.console.sessions.store import (
    NewSession,
    StoredSession,
    add_session,
    find_session,
    mark_seen,
    revoke_session,
)
from app.database.pool import Transactions
from app.tenants.caller import Caller, CallerKind, OperatorCaller
from app.tenants.scopes import in_order, known_scopes

_MAX_TOKEN_LENGTH = 64


@dataclass(frozen=True, slots=True)
class ActiveSession:
    """A person who is logged in, as the client that the person acts as."""

    id: UUID
    client: Caller | OperatorCaller
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ConsoleSessions:
    """Sessions in the database, so that each process knows them. `idle` and `lifetime` limit how long one lasts."""

    database: Transactions
    idle: timedelta
    lifetime: timedelta

    async def start(self, client: Caller | OperatorCaller, *, request_id: str) -> str:
        """Starts a session and returns the value of its cookie, which is stored nowhere.

        The session of an API key ends with the key.
        """
        token = secrets.token_urlsafe(32)
        is_key = client.kind == "key"
        session = NewSession(
            id=uuid7(),
            token_hash=_hash(token),
            kind=client.kind,
            name=client.name,
            key_id=client.key_id if is_key else None,
            tenant_id=None if is_key else client.tenant_id,
            scopes=None if is_key else [scope.value for scope in in_order(client.scopes)],
        )
        async with self.database.transaction() as connection:
            await add_session(connection, session, lifetime=self.lifetime)
            actor = Actor(client.kind, client.name, request_id)
            await record(connection, actor, action="console.login", tenant_id=client.tenant_id, subject=str(session.id))
        return token

    async def find(self, token: str, *, is_use: bool) -> ActiveSession | None:
        """Returns the session of a cookie; None if there is none, or it has ended.

        `is_use` says whether the request is a person's, which delays the end of an unused session. A page that renews itself
        is not.
        """
        if len(token) > _MAX_TOKEN_LENGTH:
            return None
        async with self.database.transaction() as connection:
            found = await find_session(connection, _hash(token), idle=self.idle)
            if found and is_use and not found.is_seen:
                await mark_seen(connection, found.id)
        return ActiveSession(found.id, _client_of(found), found.expires_at) if found else None

    async def end(self, session: ActiveSession, *, request_id: str) -> None:
        client = session.client
        async with self.database.transaction() as connection:
            await revoke_session(connection, session.id)
            actor = Actor(client.kind, client.name, request_id)
            await record(connection, actor, action="console.logout", tenant_id=client.tenant_id, subject=str(session.id))


def _hash(token: str) -> bytes:
    """Returns the stored form. The token is random, so a plain hash suffices."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _client_of(found: StoredSession) -> Caller | OperatorCaller:
    scopes = known_scopes(found.scopes)
    kind: CallerKind = found.kind  # type: ignore[assignment]  # a check constraint lists them
    if found.tenant_id is None:
        return OperatorCaller(found.key_id, found.name, scopes, kind)
    key_id = found.key_id or found.id
    return Caller(found.tenant_id, key_id, found.name, found.is_suspended, scopes, found.max_in_flight, kind)
