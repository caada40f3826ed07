"""Batched reads of tenants: each function is one statement for many keys, tenants or accounts.

A change to any tenant empties the caches of every process, so many requests read at the same time.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.database.engine import Database
from app.tenants.callbacks import CallbackDefaults
from app.tenants.models import credential_identity


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A row of an API key with the state of its tenant."""

    id: UUID
    tenant_id: str
    keyed_hash: bytes
    expires_at: datetime | None
    revoked_at: datetime | None
    suspended_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential that is not revoked, with its account and tenant."""

    callbacks: CallbackDefaults
    id: UUID
    kind: str
    username: str
    sealed_secret: bytes
    rejected_at: datetime | None
    account_id: UUID
    account_sid: str
    base_url: str | None

    @property
    def identity(self) -> str:
        return credential_identity(self.id)


_KEYS = """
    SELECT prefix, api_key.id, tenant_id, keyed_hash, expires_at, revoked_at, suspended_at
    FROM api_key JOIN tenant ON tenant.id = tenant_id
    WHERE prefix = ANY ($1)
"""

# Selection and order are the same as in `repository.list_credentials`. Change both together.
_CREDENTIALS_OF = """
    SELECT tenant_id, status_callback, status_callback_method, status_callback_events,
        credential.id, kind, username, sealed_secret, rejected_at, account.id, account_sid, base_url
    FROM tenant
    JOIN twilio_account AS account ON account.tenant_id = tenant.id
    JOIN twilio_credential AS credential ON credential.account_id = account.id
    WHERE {} AND credential.revoked_at IS NULL
    ORDER BY account.id, rejected_at NULLS FIRST, credential.id
"""
_CREDENTIALS = _CREDENTIALS_OF.format("tenant.id = ANY ($1)")
_AUTH_TOKENS = _CREDENTIALS_OF.format("account.id = ANY ($1) AND kind = 'auth_token'")


async def find_keys(database: Database, prefixes: Sequence[str]) -> list[StoredKey | None]:
    """Returns the key of each prefix, or None."""
    found = {prefix: StoredKey(*values) for prefix, *values in await database.fetch(_KEYS, prefixes)}
    return [found.get(prefix) for prefix in prefixes]


async def list_credentials(database: Database, tenant_ids: Sequence[str]) -> list[Sequence[StoredCredential]]:
    """Returns the active credentials of each tenant, by account (oldest first) and then in the order to try them."""
    listed = defaultdict[str, list[StoredCredential]](list)
    for tenant_id, credential in await _credentials(database, _CREDENTIALS, tenant_ids):
        listed[tenant_id].append(credential)
    return [listed[tenant_id] for tenant_id in tenant_ids]


async def list_auth_tokens(database: Database, account_ids: Sequence[UUID]) -> list[Sequence[StoredCredential]]:
    """Returns the active auth tokens of each account."""
    listed = defaultdict[UUID, list[StoredCredential]](list)
    for _, credential in await _credentials(database, _AUTH_TOKENS, account_ids):
        listed[credential.account_id].append(credential)
    return [listed[account_id] for account_id in account_ids]


async def _credentials(database: Database, statement: str, ids: Sequence[Any]) -> list[tuple[str, StoredCredential]]:
    """Returns pairs of tenant id and credential."""
    return [
        (tenant_id, StoredCredential(CallbackDefaults(url, method, events), *values))
        for tenant_id, url, method, events, *values in await database.fetch(statement, ids)
    ]
