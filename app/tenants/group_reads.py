"""What every creation asks of its tenant, for many creations at once: each is one statement.

A change to any tenant makes each process read anew all that it knew, in the middle of the load.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.database import Database
from app.tenants.callbacks import CallbackDefaults
from app.tenants.models import credential_identity


@dataclass(frozen=True, slots=True)
class StoredKey:
    """An API key and its tenant's state."""

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

# Which ones, and in which order: as `repository.list_credentials` has it for one account.
_CREDENTIALS = """
    SELECT tenant_id, status_callback, status_callback_method, status_callback_events,
        credential.id, kind, username, sealed_secret, rejected_at, account.id, account_sid, base_url
    FROM tenant
    JOIN twilio_account AS account ON account.tenant_id = tenant.id
    JOIN twilio_credential AS credential ON credential.account_id = account.id
    WHERE tenant.id = ANY ($1) AND credential.revoked_at IS NULL
    ORDER BY account.id, rejected_at NULLS FIRST, credential.id
"""


async def find_keys(database: Database, prefixes: Sequence[str]) -> list[StoredKey | None]:
    """For each prefix."""
    found = {prefix: StoredKey(*values) for prefix, *values in await database.fetch(_KEYS, prefixes)}
    return [found.get(prefix) for prefix in prefixes]


async def list_credentials(database: Database, tenant_ids: Sequence[str]) -> list[Sequence[StoredCredential]]:
    """For each tenant: by account, the oldest first, and each account's in the order in which they are to be tried."""
    listed = defaultdict[str, list[StoredCredential]](list)
    for tenant_id, url, method, events, *values in await database.fetch(_CREDENTIALS, tenant_ids):
        listed[tenant_id].append(StoredCredential(CallbackDefaults(url, method, events), *values))
    return [listed[tenant_id] for tenant_id in tenant_ids]
