"""SQL of `callgate apply`: its lock, and the stored state of the tenants in a file. Uses asyncpg without SQLAlchemy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from app.database.connection import SESSION_SETTINGS, Connection
from app.errors import CommandFailed
from app.scheduling.pace_limits import UNLIMITED_PACE, PaceLimits
from app.scheduling.pace_store import find_paces
from app.tenants.administration_store import AccountRow, TenantRow, find_accounts, find_tenants
from app.tenants.sip_credential_store import EncryptedSipCredential, find_encrypted_sip_credentials
from app.tenants.workload_store import WorkloadRow, find_workload
from app.workloads.service_accounts import ServiceAccount

_ADVISORY_LOCK_KEY: Final = 0xCA11A991
# How long one `apply` waits for another.
_LOCK_TIMEOUT_S: Final = 60
STATEMENT_TIMEOUT_S: Final = _LOCK_TIMEOUT_S + 10.0
APPLY_SESSION_SETTINGS: Final = SESSION_SETTINGS | {
    "lock_timeout": f"{_LOCK_TIMEOUT_S}s",
    "statement_timeout": f"{_LOCK_TIMEOUT_S + 5}s",
}


class ApplyLocked(CommandFailed):
    pass


@dataclass(frozen=True, slots=True)
class StoredTwilioCredential:
    id: UUID
    account_id: UUID
    username: str
    sealed_secret: bytes = field(repr=False)
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class StoredAccount:
    row: AccountRow
    credentials: list[StoredTwilioCredential]
    """All credentials of the account, active and revoked, oldest first."""
    pace: PaceLimits


@dataclass(frozen=True, slots=True)
class StoredTenant:
    row: TenantRow
    accounts: dict[str, StoredAccount]
    """The tenant's Twilio accounts by account SID."""
    sip_credentials: dict[str, EncryptedSipCredential]
    """The tenant's SIP credentials by name, with encrypted user names and passwords."""
    is_revoked_by_key_id: dict[str, bool]
    """Maps the id of each API key that the file revokes to whether this key is revoked already."""


async def acquire_apply_lock(connection: Connection) -> None:
    """Waits until no other `apply` runs. Then keeps others from running while this transaction is open.

    Raises ApplyLocked if the other `apply` does not end in time. The lock belongs to the transaction, not to the database
    session: a pooler may run each transaction in another session.
    """
    try:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK_KEY)
    except asyncpg.LockNotAvailableError:
        raise ApplyLocked(f"another `callgate apply` has not ended within {_LOCK_TIMEOUT_S} s: nothing was changed") from None


async def make_transaction_read_only(connection: Connection) -> None:
    """Makes Postgres refuse any change in this transaction."""
    await connection.execute("SET TRANSACTION READ ONLY")


async def read_tenants(
    connection: Connection, tenant_ids: Sequence[str], *, key_ids: Sequence[str], lock: bool
) -> dict[str, StoredTenant]:
    """Returns those tenants in `tenant_ids` that exist, by id. Of a tenant's API keys, reads only those in `key_ids`.

    `lock` keeps other transactions from changing the tenants until this transaction ends.
    """
    rows = await find_tenants(connection, tenant_ids, lock=lock)
    tenants = {row.id: StoredTenant(row, {}, {}, {}) for row in rows}
    accounts = await find_accounts(connection, list(tenants))
    account_ids = [account.id for account in accounts]
    credentials, paces = await _read_credentials(connection, account_ids), await find_paces(connection, account_ids)
    for account in accounts:
        tenants[account.tenant_id].accounts[account.account_sid] = StoredAccount(
            account, credentials.get(account.id, []), paces.get(account.id, UNLIMITED_PACE)
        )
    for sip_auth in await find_encrypted_sip_credentials(connection, list(tenants)):
        tenants[sip_auth.credential.tenant_id].sip_credentials[sip_auth.credential.name] = sip_auth
    statement = "SELECT tenant_id, prefix, revoked_at IS NOT NULL FROM api_key WHERE tenant_id = ANY ($1) AND prefix = ANY ($2)"
    for tenant_id, key_id, is_revoked in await connection.fetch(statement, list(tenants), key_ids):
        tenants[tenant_id].is_revoked_by_key_id[key_id] = is_revoked
    return tenants


async def read_workloads(
    connection: Connection, accounts: Sequence[ServiceAccount], *, lock: bool
) -> dict[ServiceAccount, WorkloadRow]:
    """Returns the stored workloads of these service accounts, of any tenant. `lock` locks them until the transaction ends."""
    found = [await find_workload(connection, account, lock=lock) for account in accounts]
    return {account: row for account, row in zip(accounts, found, strict=True) if row is not None}


async def _read_credentials(connection: Connection, account_ids: Sequence[UUID]) -> dict[UUID, list[StoredTwilioCredential]]:
    statement = """SELECT id, account_id, username, sealed_secret, revoked_at IS NOT NULL FROM twilio_credential
        WHERE account_id = ANY ($1) ORDER BY id"""
    credentials: dict[UUID, list[StoredTwilioCredential]] = {}
    for row in await connection.fetch(statement, account_ids):
        credential = StoredTwilioCredential(*row)
        credentials.setdefault(credential.account_id, []).append(credential)
    return credentials
