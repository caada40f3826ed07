"""SQL of named SIP credentials. Uses asyncpg without SQLAlchemy, as `administration_store` does.

Functions run in the caller's transaction and never commit.
"""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.database.connection import Connection


@dataclass(frozen=True, slots=True)
class SipCredentialRow:
    id: UUID
    tenant_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    """When user name and password were last replaced."""


COLUMNS = "id, tenant_id, name, created_at, updated_at"


async def insert_sip_credential(
    connection: Connection, credential_id: UUID, *, tenant_id: str, name: str, sealed_username: bytes, sealed_password: bytes
) -> SipCredentialRow | None:
    """Inserts a SIP credential and returns its row. Returns None if the tenant has a credential with this name already."""
    statement = f"""INSERT INTO sip_credential (id, tenant_id, name, sealed_username, sealed_password)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, name) DO NOTHING RETURNING {COLUMNS}"""
    row = await connection.fetchrow(statement, credential_id, tenant_id, name, sealed_username, sealed_password)
    return None if row is None else SipCredentialRow(*row)


@dataclass(frozen=True, slots=True)
class EncryptedSipCredential:
    """A SIP credential with its encrypted user name and password."""

    credential: SipCredentialRow
    username: bytes
    password: bytes


async def lock_sip_credential(connection: Connection, *, tenant_id: str, name: str) -> EncryptedSipCredential | None:
    """Returns the credential, and locks its row until the transaction ends. Returns None if the credential does not exist."""
    statement = f"""SELECT sealed_username, sealed_password, {COLUMNS} FROM sip_credential
        WHERE tenant_id = $1 AND name = $2 FOR UPDATE"""
    row = await connection.fetchrow(statement, tenant_id, name)
    return None if row is None else _to_encrypted_sip_auth(row)


async def find_encrypted_sip_credentials(connection: Connection, tenant_ids: Sequence[str]) -> list[EncryptedSipCredential]:
    """Returns the SIP credentials of all these tenants, with encrypted user names and passwords."""
    statement = f"SELECT sealed_username, sealed_password, {COLUMNS} FROM sip_credential WHERE tenant_id = ANY ($1)"
    return [_to_encrypted_sip_auth(row) for row in await connection.fetch(statement, tenant_ids)]


def _to_encrypted_sip_auth(row: Iterable[Any]) -> EncryptedSipCredential:
    username, password, *values = row
    return EncryptedSipCredential(SipCredentialRow(*values), username, password)


async def update_sip_credential(
    connection: Connection, credential_id: UUID, *, sealed_username: bytes, sealed_password: bytes
) -> SipCredentialRow:
    statement = f"""UPDATE sip_credential SET sealed_username = $2, sealed_password = $3, updated_at = now()
        WHERE id = $1 RETURNING {COLUMNS}"""
    return SipCredentialRow(*await connection.fetchrow(statement, credential_id, sealed_username, sealed_password))


async def list_sip_credentials(
    connection: Connection, tenant_id: str, *, after: str | None = None, limit: int | None = None
) -> list[SipCredentialRow]:
    """Returns the tenant's SIP credentials, sorted by name.

    Returns at most `limit` credentials, unless it is None. If `after` is given, returns only credentials with a later name.
    """
    statement = f"""SELECT {COLUMNS} FROM sip_credential WHERE tenant_id = $1 AND ($2::text IS NULL OR name > $2)
        ORDER BY name LIMIT $3"""
    return [SipCredentialRow(*row) for row in await connection.fetch(statement, tenant_id, after, limit)]


async def delete_sip_credential(connection: Connection, *, tenant_id: str, name: str) -> SipCredentialRow | None:
    statement = f"DELETE FROM sip_credential WHERE tenant_id = $1 AND name = $2 RETURNING {COLUMNS}"
    row = await connection.fetchrow(statement, tenant_id, name)
    return None if row is None else SipCredentialRow(*row)
