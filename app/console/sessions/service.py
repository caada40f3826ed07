"""Starts, finds and ends sessions of the console, and says how long a login link can be used. Does not import FastAPI."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from uuid_utils.compat import uuid7

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.console.sessions.store import (
    ListedSession,
    NewSession,
    StoredSession,
    add_session,
    find_session,
    list_sessions,
    record_session_use,
    revoke_session,
    start_session_with_link,
)
from app.console_settings import ConsoleSettings
from app.database.pool import StatementPool, TransactionRunner
from app.errors import TenantNotFound
from app.tenants.caller import COMMAND_LINE_CALLER, AuthenticationMethod, Caller, OperatorCaller
from app.tenants.scopes import ALL_SCOPES, known_scopes, sort_scopes

LINK_LIFETIME = timedelta(minutes=15)
"""The time for which a one-time login link can be used.

The texts of `callgate console link --help` and docs/console.md state this time, too.
"""
_TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{43}")
# Stands before a link when it is hashed. No cookie has a `:`, so the hash of a link is never the hash of a cookie.
_LINK_PREFIX = "link:"


@dataclass(frozen=True, slots=True)
class ActiveSession:
    """The session of a person who is logged in. `client` has the tenant and the scopes of this person."""

    id: UUID
    client: Caller | OperatorCaller
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ConsoleSessions:
    """Starts, finds, lists and ends the console's sessions, which are in the database.

    A session ends after the time `idle` without use, at the latest after the time `lifetime`.
    """

    database: StatementPool
    idle: timedelta
    lifetime: timedelta

    @classmethod
    def from_settings(cls, database: StatementPool, settings: ConsoleSettings) -> Self:
        idle, lifetime = settings.console_idle_timeout, settings.console_session_timeout
        return cls(database, timedelta(seconds=idle), timedelta(seconds=lifetime))

    async def start(self, client: Caller | OperatorCaller, *, request_id: str) -> str:
        """Starts a session and returns the value of its cookie. Only the hash of the value is stored.

        A session that began with an API key ends at the latest when the key expires or is revoked. Raises TenantNotFound if the
        client's tenant does not exist.
        """
        token = secrets.token_urlsafe(32)
        is_key = client.kind == "key"
        session = NewSession(
            id=uuid7(),
            token_hash=_hash_token(token),
            kind=client.kind,
            name=client.name,
            key_id=client.key_id if is_key else None,
            tenant_id=None if is_key else client.tenant_id,
            scopes=None if is_key else [scope.value for scope in sort_scopes(client.scopes)],
        )
        async with self.database.transaction() as connection:
            if not await add_session(connection, session, lifetime=self.lifetime):
                raise TenantNotFound
            actor = Actor(client.kind, client.name, request_id)
            await record_audit_event(
                connection, actor, action="console.login", tenant_id=client.tenant_id, subject=str(session.id)
            )
        return token

    async def redeem_login_link(self, link: str, *, request_id: str) -> str | None:
        """Starts a session with a one-time link, and returns the value of the session's cookie.

        Returns None if there is no such link, or if it was used before or has expired.
        """
        token = secrets.token_urlsafe(32)
        async with self.database.transaction() as connection:
            hashed = _hash_token(_LINK_PREFIX + link)
            redeemed = await start_session_with_link(connection, hashed, token_hash=_hash_token(token), lifetime=self.lifetime)
            if redeemed is None:
                return None
            session_id, name = redeemed
            actor = Actor("link", name, request_id)
            await record_audit_event(connection, actor, action="console.login", tenant_id=None, subject=str(session_id))
        return token

    async def find(self, token: str, *, is_user_activity: bool) -> ActiveSession | None:
        """Returns the session whose cookie has the value `token`; None if there is no such session, or if it has ended.

        `is_user_activity` is false for a request that a page sent to refresh itself. Such a request does not count as use of
        the session, so an open page alone does not keep the session from ending.
        """
        if not _TOKEN_PATTERN.fullmatch(token):
            return None
        found = await find_session(self.database, _hash_token(token), idle=self.idle)
        if found and is_user_activity and not found.is_recently_seen:
            async with self.database.transaction() as connection:
                await record_session_use(connection, found.id)
        return ActiveSession(found.id, _client_of_session(found), found.expires_at) if found else None

    async def list(self) -> list[ListedSession]:
        """Returns the sessions that have not ended, and the one-time links that can still be used."""
        return await list_sessions(self.database, idle=self.idle)

    async def end(self, session_id: UUID, actor: Actor) -> bool:
        """Ends a session or an unused one-time link. Returns False if none has this id, or if it has already ended."""
        async with self.database.transaction() as connection:
            tenant_id = await revoke_session(connection, session_id)
            if tenant_id is None:
                return False
            await record_audit_event(
                connection, actor, action="console.logout", tenant_id=tenant_id or None, subject=str(session_id)
            )
        return True


async def add_login_link(database: TransactionRunner, actor: Actor) -> str:
    """Creates a one-time link, which logs in an operator with all scopes, and returns the secret in the link.

    Adds a row to the table of sessions. The row becomes a session when the link is used. Until then, it has the hash of the
    secret instead of the hash of a cookie.
    """
    link = secrets.token_urlsafe(32)
    session = NewSession(
        id=uuid7(),
        token_hash=_hash_token(_LINK_PREFIX + link),
        kind="link",
        name=actor.name or COMMAND_LINE_CALLER.name,
        key_id=None,
        tenant_id=None,
        scopes=[scope.value for scope in sort_scopes(ALL_SCOPES)],
    )
    async with database.transaction() as connection:
        await add_session(connection, session, lifetime=LINK_LIFETIME)
        await record_audit_event(connection, actor, action="console.link", tenant_id=None, subject=str(session.id))
    return link


def _hash_token(token: str) -> bytes:
    """Returns the SHA-256 that is stored for a token. A token is random and long, so it needs no salt and no slow hash."""
    return hashlib.sha256(token.encode()).digest()


def _client_of_session(found: StoredSession) -> Caller | OperatorCaller:
    scopes = known_scopes(found.scopes)
    kind: AuthenticationMethod = found.kind  # type: ignore[assignment]  # a check constraint lists them
    if found.tenant_id is None:
        return OperatorCaller(found.key_id, found.name, scopes, kind)
    key_id = found.key_id or found.id
    return Caller(found.tenant_id, key_id, found.name, found.is_suspended, scopes, found.max_in_flight, kind)
