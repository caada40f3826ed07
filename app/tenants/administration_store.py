"""SQL that manages tenants, accounts, credentials and keys. Functions run in the caller's transaction and never commit.

Uses asyncpg without SQLAlchemy, which would double the memory and CPU of a command that lists ten keys.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, TypeVar
from uuid import UUID

from app.database.connection import Connection
from app.tenants.credential_order import CREDENTIAL_ORDER_SQL

Row = TypeVar("Row")
ApiKeyState = Literal["active", "expired", "revoked"]

_VERSION_HEX_DIGITS = 32
_LOWEST_ID = UUID(int=0)


class TenantSettings(TypedDict, total=False):
    """The settings of a tenant. A change of settings contains only the settings that change."""

    name: str
    suspended: bool
    status_callback: str | None
    status_callback_method: str | None
    status_callback_events: list[str] | None
    callback_format: str
    max_in_flight: int | None
    hours: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class TenantRow:
    id: str
    name: str
    created_at: datetime
    suspended_at: datetime | None
    status_callback: str | None
    status_callback_method: str | None
    status_callback_events: list[str] | None
    callback_format: str
    max_in_flight: int | None
    """How many calls one process may be creating at Twilio at a time. None means CALLGATE_MAX_IN_FLIGHT_PER_TENANT."""
    has_callback_secret: bool
    hours: dict[str, Any] | None
    """The tenant's calling hours as JSON (`CallingHours.to_json`). None means that scheduled calls may ring at any time."""

    @classmethod
    def from_columns(cls, *values: Any) -> "TenantRow":
        """Returns a row made from the values of TENANT_COLUMNS, in the order of these columns."""
        *others, hours = values
        return cls(*(*others, None if hours is None else json.loads(hours)))

    @property
    def settings(self) -> TenantSettings:
        return TenantSettings(
            name=self.name,
            suspended=self.suspended_at is not None,
            status_callback=self.status_callback,
            status_callback_method=self.status_callback_method,
            status_callback_events=self.status_callback_events,
            callback_format=self.callback_format,
            max_in_flight=self.max_in_flight,
            hours=self.hours,
        )

    @property
    def version(self) -> str:
        """A hash of the settings. It changes whenever a setting changes."""
        return hashlib.sha256(repr(self.settings).encode()).hexdigest()[:_VERSION_HEX_DIGITS]


@dataclass(frozen=True, slots=True)
class AccountRow:
    id: UUID
    tenant_id: str
    account_sid: str
    base_url: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """A Twilio credential. `username` is the account's SID for an auth token, and the key's SID (SK…) for an API key."""

    id: UUID
    account_id: UUID
    kind: str
    username: str
    created_at: datetime
    revoked_at: datetime | None
    rejected_at: datetime | None
    rejected_reason: str | None
    last_used_at: datetime | None
    """When a request was last sent, or a callback was last verified, with the credential; exact to about a minute."""
    place: UUID
    """Callgate tries credentials in the order of this key: the credential's id or, for a replacement, the old one's `place`."""
    preferred_at: datetime | None
    """When the credential was put before the others with the same `place`; None if it never was."""


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """An API key. `prefix` is its public part, which identifies it. `tenant_id` is None for an operator's key."""

    id: UUID
    tenant_id: str | None
    scopes: list[str]
    name: str | None
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """When a request was last authenticated with the key; exact to about a minute."""

    def state_at(self, now: datetime) -> ApiKeyState:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


TENANT_COLUMNS = """id, name, created_at, suspended_at, status_callback, status_callback_method, status_callback_events,
    callback_format, max_in_flight, sealed_callback_secret IS NOT NULL, hours"""
ACCOUNT_COLUMNS = "id, tenant_id, account_sid, base_url, created_at"
CREDENTIAL_COLUMNS = """id, account_id, kind, username, created_at, revoked_at, rejected_at, rejected_reason,
    (SELECT last_used_at FROM credential_use WHERE credential_id = credential.id), coalesce(place, id), preferred_at"""
API_KEY_COLUMNS = """id, tenant_id, scopes, name, prefix, created_at, expires_at, revoked_at,
    (SELECT last_used_at FROM api_key_use WHERE key_id = api_key.id)"""


async def insert_tenant(connection: Connection, tenant_id: str, *, name: str) -> TenantRow | None:
    """Inserts a tenant and returns its row. Returns None if the tenant exists already."""
    statement = f"INSERT INTO tenant (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING RETURNING {TENANT_COLUMNS}"
    return _to_row(TenantRow.from_columns, await connection.fetchrow(statement, tenant_id, name))


async def list_tenants(connection: Connection, *, after: str | None, limit: int | None) -> list[TenantRow]:
    """Returns up to `limit` tenants (all if None), sorted by id. If `after` is given, returns only those with a later id."""
    statement = f"SELECT {TENANT_COLUMNS} FROM tenant WHERE id > $1 ORDER BY id LIMIT $2"
    return [TenantRow.from_columns(*row) for row in await connection.fetch(statement, after or "", limit)]


async def find_tenant(connection: Connection, tenant_id: str) -> TenantRow | None:
    statement = f"SELECT {TENANT_COLUMNS} FROM tenant WHERE id = $1"
    return _to_row(TenantRow.from_columns, await connection.fetchrow(statement, tenant_id))


async def lock_tenant(connection: Connection, tenant_id: str) -> TenantRow | None:
    """Returns the tenant, and locks its row until the transaction ends. Returns None if the tenant does not exist."""
    statement = f"SELECT {TENANT_COLUMNS} FROM tenant WHERE id = $1 FOR NO KEY UPDATE"
    return _to_row(TenantRow.from_columns, await connection.fetchrow(statement, tenant_id))


async def find_tenants(connection: Connection, tenant_ids: Sequence[str], *, lock: bool) -> list[TenantRow]:
    """Returns the tenants with these ids, sorted by id. Ignores unknown ids. If `lock` is true, locks them in this order."""
    statement = f"SELECT {TENANT_COLUMNS} FROM tenant WHERE id = ANY ($1) ORDER BY id{' FOR NO KEY UPDATE' if lock else ''}"
    return [TenantRow.from_columns(*row) for row in await connection.fetch(statement, tenant_ids)]


async def update_tenant_settings(connection: Connection, tenant_id: str, settings: TenantSettings) -> TenantRow:
    """Stores `settings`, which must contain all settings. A tenant that stays suspended keeps its `suspended_at`."""
    statement = f"""UPDATE tenant SET name = $2, suspended_at = CASE WHEN $3 THEN coalesce(suspended_at, now()) END,
        status_callback = $4, status_callback_method = $5, status_callback_events = $6, callback_format = $7,
        max_in_flight = $8, hours = $9 WHERE id = $1 RETURNING {TENANT_COLUMNS}"""
    hours = None if settings["hours"] is None else json.dumps(settings["hours"])
    callbacks = settings["status_callback"], settings["status_callback_method"], settings["status_callback_events"]
    values = settings["name"], settings["suspended"], *callbacks, settings["callback_format"], settings["max_in_flight"], hours
    return TenantRow.from_columns(*await connection.fetchrow(statement, tenant_id, *values))


async def update_callback_secret(connection: Connection, tenant_id: str, sealed_secret: bytes) -> bool:
    """Replaces the encrypted secret that signs the tenant's webhooks. Returns False if the tenant does not exist."""
    statement = "UPDATE tenant SET sealed_callback_secret = $2 WHERE id = $1 RETURNING id"
    return await connection.fetchrow(statement, tenant_id, sealed_secret) is not None


async def insert_account(
    connection: Connection, account_id: UUID, *, tenant_id: str, account_sid: str, base_url: str | None
) -> AccountRow | None:
    """Inserts a Twilio account and returns its row. Returns None if the tenant has this account already."""
    statement = f"""INSERT INTO twilio_account (id, tenant_id, account_sid, base_url) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant_id, account_sid) DO NOTHING RETURNING {ACCOUNT_COLUMNS}"""
    return _to_row(AccountRow, await connection.fetchrow(statement, account_id, tenant_id, account_sid, base_url))


async def lock_account(connection: Connection, *, tenant_id: str, account_sid: str) -> AccountRow | None:
    """Returns the tenant's account, and locks its row until the transaction ends. Returns None if it does not exist."""
    statement = f"SELECT {ACCOUNT_COLUMNS} FROM twilio_account WHERE tenant_id = $1 AND account_sid = $2 FOR NO KEY UPDATE"
    return _to_row(AccountRow, await connection.fetchrow(statement, tenant_id, account_sid))


async def set_base_url(connection: Connection, account_id: UUID, base_url: str | None) -> AccountRow:
    statement = f"UPDATE twilio_account SET base_url = $2 WHERE id = $1 RETURNING {ACCOUNT_COLUMNS}"
    return AccountRow(*await connection.fetchrow(statement, account_id, base_url))


async def find_accounts(connection: Connection, tenant_ids: Sequence[str]) -> list[AccountRow]:
    """Returns the accounts of all these tenants, oldest first."""
    statement = f"SELECT {ACCOUNT_COLUMNS} FROM twilio_account WHERE tenant_id = ANY ($1) ORDER BY id"
    return [AccountRow(*row) for row in await connection.fetch(statement, tenant_ids)]


async def list_accounts(connection: Connection, tenant_id: str, *, after: UUID | None, limit: int | None) -> list[AccountRow]:
    """Returns up to `limit` accounts (all if None), oldest first. If `after` is an account's id, returns only newer ones."""
    statement = f"SELECT {ACCOUNT_COLUMNS} FROM twilio_account WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3"
    return [AccountRow(*row) for row in await connection.fetch(statement, tenant_id, after or _LOWEST_ID, limit)]


async def insert_credential(
    connection: Connection, credential_id: UUID, *, account_id: UUID, kind: str, username: str, sealed_secret: bytes
) -> CredentialRow:
    statement = f"""INSERT INTO twilio_credential AS credential (id, account_id, kind, username, sealed_secret)
        VALUES ($1, $2, $3, $4, $5) RETURNING {CREDENTIAL_COLUMNS}"""
    return CredentialRow(*await connection.fetchrow(statement, credential_id, account_id, kind, username, sealed_secret))


async def list_credentials(connection: Connection, account_ids: Sequence[UUID]) -> list[CredentialRow]:
    """Returns the active credentials of these accounts in the order in which requests to Twilio try them."""
    statement = f"""SELECT {CREDENTIAL_COLUMNS} FROM twilio_credential AS credential
        WHERE account_id = ANY ($1) AND revoked_at IS NULL ORDER BY {CREDENTIAL_ORDER_SQL}"""
    return [CredentialRow(*row) for row in await connection.fetch(statement, account_ids)]


async def find_encrypted_secrets(connection: Connection, account_id: UUID, *, username: str) -> dict[UUID, bytes]:
    """Returns the encrypted secrets of the account's active credentials with this username, by credential id."""
    statement = """SELECT id, sealed_secret FROM twilio_credential
        WHERE account_id = $1 AND username = $2 AND revoked_at IS NULL"""
    return dict(map(tuple, await connection.fetch(statement, account_id, username)))


async def lock_credential(
    connection: Connection, credential_id: UUID, *, tenant_id: str, account_sid: str | None
) -> CredentialRow | None:
    """Returns a credential, and locks its row until the transaction ends. Returns None if the tenant does not have it.

    If `account_sid` is given, also returns None if the credential belongs to another account.
    """
    statement = f"""SELECT {CREDENTIAL_COLUMNS} FROM twilio_credential AS credential WHERE id = $1 AND account_id IN (
        SELECT id FROM twilio_account WHERE tenant_id = $2 AND ($3::text IS NULL OR account_sid = $3)) FOR NO KEY UPDATE"""
    return _to_row(CredentialRow, await connection.fetchrow(statement, credential_id, tenant_id, account_sid))


async def revoke_credential(connection: Connection, credential_id: UUID) -> CredentialRow:
    statement = f"UPDATE twilio_credential AS credential SET revoked_at = now() WHERE id = $1 RETURNING {CREDENTIAL_COLUMNS}"
    return CredentialRow(*await connection.fetchrow(statement, credential_id))


async def insert_api_key(
    connection: Connection,
    key_id: UUID,
    *,
    tenant_id: str | None,
    scopes: Sequence[str],
    name: str | None,
    prefix: str,
    keyed_hash: bytes,
    expires_at: datetime | None,
    idempotency_key: str | None,
) -> ApiKeyRow | None:
    """Inserts an API key and returns its row. Returns None if the tenant has a key with this `idempotency_key` already."""
    statement = f"""INSERT INTO api_key (id, tenant_id, scopes, name, prefix, keyed_hash, expires_at, idempotency_key)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (tenant_id, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING {API_KEY_COLUMNS}"""
    values = (key_id, tenant_id, scopes, name, prefix, keyed_hash, expires_at, idempotency_key)
    return _to_row(ApiKeyRow, await connection.fetchrow(statement, *values))


async def find_key_by_idempotency_key(connection: Connection, tenant_id: str | None, idempotency_key: str | None) -> ApiKeyRow:
    """Returns the API key that the tenant created with this idempotency key. The API key must exist."""
    statement = f"SELECT {API_KEY_COLUMNS} FROM api_key WHERE tenant_id = $1 AND idempotency_key = $2"
    return ApiKeyRow(*await connection.fetchrow(statement, tenant_id, idempotency_key))


async def list_keys(connection: Connection, tenant_id: str | None, *, after: UUID | None, limit: int | None) -> list[ApiKeyRow]:
    """Returns a tenant's keys (operators' if `tenant_id` is None), oldest first; if `after` is a key's id, only newer keys."""
    owner = "tenant_id IS NULL AND $1::text IS NULL" if tenant_id is None else "tenant_id = $1"
    statement = f"SELECT {API_KEY_COLUMNS} FROM api_key WHERE {owner} AND id > $2 ORDER BY id LIMIT $3"
    return [ApiKeyRow(*row) for row in await connection.fetch(statement, tenant_id, after or _LOWEST_ID, limit)]


async def lock_api_key(connection: Connection, *, prefix: str) -> ApiKeyRow | None:
    """Returns the API key, and locks its row until the transaction ends. Returns None if there is no such key."""
    statement = f"SELECT {API_KEY_COLUMNS} FROM api_key WHERE prefix = $1 FOR NO KEY UPDATE"
    return _to_row(ApiKeyRow, await connection.fetchrow(statement, prefix))


async def revoke_api_key(connection: Connection, key_id: UUID) -> ApiKeyRow:
    statement = f"UPDATE api_key SET revoked_at = now() WHERE id = $1 RETURNING {API_KEY_COLUMNS}"
    return ApiKeyRow(*await connection.fetchrow(statement, key_id))


def _to_row(row_type: Callable[..., Row], values: Iterable[Any] | None) -> Row | None:
    return None if values is None else row_type(*values)
