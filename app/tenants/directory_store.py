"""SQL that reads tenants, accounts, credentials and keys for many requests in one statement.

One statement is important because a change to any tenant empties the caches of all processes, and many requests then read at
the same time.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.database.engine import Database
from app.tenants.credential_order import CREDENTIAL_ORDER_SQL
from app.tenants.stored_secrets import (
    associated_data_of_credential,
    associated_data_of_sip_password,
    associated_data_of_sip_username,
)
from app.workloads.service_accounts import ServiceAccount


@dataclass(frozen=True, slots=True)
class StoredApiKey:
    """A row of an API key with columns of its tenant. `tenant_id` is None for an operator's key."""

    id: UUID
    tenant_id: str | None
    scopes: list[str]
    keyed_hash: bytes
    expires_at: datetime | None
    revoked_at: datetime | None
    suspended_at: datetime | None
    max_in_flight: int | None


@dataclass(frozen=True, slots=True)
class StoredWorkload:
    """A row of a workload with columns of its tenant. `tenant_id` is None for an operator's workload."""

    id: UUID
    tenant_id: str | None
    scopes: list[str]
    suspended_at: datetime | None
    max_in_flight: int | None


@dataclass(frozen=True, slots=True)
class CallbackDefaults:
    """The default status callback of a tenant, which is used for calls whose request contains none."""

    url: str | None
    method: str | None
    events: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A Twilio credential that is not revoked, with columns of its account and its tenant's callback defaults."""

    callbacks: CallbackDefaults
    id: UUID
    kind: str
    username: str
    sealed_secret: bytes
    rejected_at: datetime | None
    account_id: UUID
    account_sid: str
    base_url: str | None
    has_pace_limits: bool

    @property
    def secret_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted secret: a text that names the row. Decryption needs the same text."""
        return associated_data_of_credential(self.id)


@dataclass(frozen=True, slots=True)
class StoredSigningSettings:
    """The format and the encrypted signing secret of a tenant's deliveries."""

    callback_format: str
    sealed_secret: bytes | None


@dataclass(frozen=True, slots=True)
class StoredSipCredential:
    """The columns of a SIP credential that are needed to place a call: id, encrypted user name and encrypted password."""

    id: UUID
    sealed_username: bytes
    sealed_password: bytes

    @property
    def username_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted user name: a text that names row and column. Decryption needs it."""
        return associated_data_of_sip_username(self.id)

    @property
    def password_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted password: a text that names row and column. Decryption needs it."""
        return associated_data_of_sip_password(self.id)


_SELECT_KEYS = """
    SELECT prefix, api_key.id, tenant_id, scopes, keyed_hash, expires_at, revoked_at, suspended_at, max_in_flight
    FROM api_key LEFT JOIN tenant ON tenant.id = tenant_id
    WHERE prefix = ANY ($1)
"""

_SELECT_WORKLOADS = """
    SELECT issuer, namespace, service_account, workload.id, tenant_id, scopes, suspended_at, max_in_flight
    FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (issuer, namespace, service_account)
    JOIN workload USING (issuer, namespace, service_account)
    LEFT JOIN tenant ON tenant.id = tenant_id
"""

_SELECT_CREDENTIALS_TEMPLATE = f"""
    SELECT tenant_id, status_callback, status_callback_method, status_callback_events,
        credential.id, kind, username, sealed_secret, rejected_at, account.id, account_sid, base_url,
        calls_per_second IS NOT NULL OR max_concurrent IS NOT NULL
    FROM tenant
    JOIN twilio_account AS account ON account.tenant_id = tenant.id
    JOIN twilio_credential AS credential ON credential.account_id = account.id
    LEFT JOIN pace ON pace.subject_id = account.id
    WHERE {{}} AND credential.revoked_at IS NULL
    ORDER BY account.id, {CREDENTIAL_ORDER_SQL}
"""  # noqa: S608  # a constant
# A tenant may have many accounts, so this reads only the wanted one: with the given SID or, if that is null, the oldest one.
_SELECT_CREDENTIALS_OF_USABLE_ACCOUNTS = _SELECT_CREDENTIALS_TEMPLATE.format("""account.id = ANY (ARRAY(
        SELECT (SELECT id FROM twilio_account AS usable WHERE usable.tenant_id = wanted.tenant_id
            AND (wanted.account_sid IS NULL OR usable.account_sid = wanted.account_sid)
            AND EXISTS (SELECT FROM twilio_credential WHERE account_id = usable.id AND revoked_at IS NULL)
            ORDER BY id LIMIT 1)
        FROM unnest($1::text[], $2::text[]) AS wanted (tenant_id, account_sid)))""")
_SELECT_CREDENTIALS_OF_ACCOUNT = _SELECT_CREDENTIALS_TEMPLATE.format("account.id = $1")
_SELECT_AUTH_TOKENS = _SELECT_CREDENTIALS_TEMPLATE.format("account.id = ANY ($1) AND kind = 'auth_token'")


_SELECT_SIP_CREDENTIALS = """
    SELECT tenant_id, name, id, sealed_username, sealed_password
    FROM sip_credential JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, name) USING (tenant_id, name)
"""


async def find_api_keys(database: Database, prefixes: Sequence[str]) -> list[StoredApiKey | None]:
    """Returns, for each prefix and in the same order, the API key with this prefix; None if no key has it."""
    found = {prefix: StoredApiKey(*values) for prefix, *values in await database.fetch(_SELECT_KEYS, prefixes)}
    return [found.get(prefix) for prefix in prefixes]


async def find_workloads(database: Database, accounts: Sequence[ServiceAccount]) -> list[StoredWorkload | None]:
    """Returns, for each service account and in the same order, its workload; None if the service account is not a workload."""
    wanted = ([one.issuer for one in accounts], [one.namespace for one in accounts], [one.name for one in accounts])
    rows = await database.fetch(_SELECT_WORKLOADS, *wanted)
    found = {ServiceAccount(*row[:3]): StoredWorkload(*row[3:]) for row in map(tuple, rows)}
    return [found.get(account) for account in accounts]


async def list_credentials_of_usable_accounts(
    database: Database, wanted: Sequence[tuple[str, str | None]]
) -> list[Sequence[StoredCredential]]:
    """Returns, for each pair of tenant id and account SID and in the same order, the active credentials of one account.

    This is the account with the SID or, if the SID is None, the tenant's oldest account with an active credential. The
    credentials are in the order in which requests try them. If there is no such account, the list of its credentials is empty.
    """
    listed = defaultdict[str, list[StoredCredential]](list)
    columns = zip(*wanted, strict=True)
    for tenant_id, credential in await _fetch_credentials(database, _SELECT_CREDENTIALS_OF_USABLE_ACCOUNTS, *columns):
        listed[tenant_id].append(credential)
    return [_credentials_of_account(listed[tenant_id], account_sid) for tenant_id, account_sid in wanted]


def _credentials_of_account(credentials: Sequence[StoredCredential], account_sid: str | None) -> list[StoredCredential]:
    """Returns the credentials of the account with this SID or, if the SID is None, of the oldest account.

    `credentials` are of one tenant. Those of its oldest account come first.
    """
    sid = account_sid or next((credential.account_sid for credential in credentials), None)
    return [credential for credential in credentials if credential.account_sid == sid]


async def list_account_credentials(database: Database, account_id: UUID) -> list[StoredCredential]:
    """Returns the active credentials of one account, in the order in which requests to Twilio try them."""
    return [credential for _, credential in await _fetch_credentials(database, _SELECT_CREDENTIALS_OF_ACCOUNT, account_id)]


async def list_auth_tokens(database: Database, account_ids: Sequence[UUID]) -> list[Sequence[StoredCredential]]:
    """Returns a list of active auth tokens for each account, in the order of `account_ids`."""
    listed = defaultdict[UUID, list[StoredCredential]](list)
    for _, credential in await _fetch_credentials(database, _SELECT_AUTH_TOKENS, account_ids):
        listed[credential.account_id].append(credential)
    return [listed[account_id] for account_id in account_ids]


async def find_sip_credentials(database: Database, names: Sequence[tuple[str, str]]) -> list[StoredSipCredential | None]:
    """Returns, for each pair of tenant id and name and in the same order, the SIP credential; None if it does not exist."""
    rows = await database.fetch(_SELECT_SIP_CREDENTIALS, *zip(*names, strict=True))
    found = {(tenant_id, name): StoredSipCredential(*values) for tenant_id, name, *values in rows}
    return [found.get(name) for name in names]


async def find_signing_settings(database: Database, tenant_id: str) -> StoredSigningSettings | None:
    """Returns the format and the encrypted signing secret of the tenant's deliveries; None if there is no such tenant."""
    rows = await database.fetch("SELECT callback_format, sealed_callback_secret FROM tenant WHERE id = $1", tenant_id)
    return StoredSigningSettings(*rows[0]) if rows else None


async def add_callback_secret_if_missing(
    database: Database, tenant_id: str, sealed_secret: bytes
) -> StoredSigningSettings | None:
    """Stores the encrypted secret if the tenant has none yet. Returns the settings that are stored after that.

    Returns None if the tenant does not exist.
    """
    statement = """UPDATE tenant SET sealed_callback_secret = coalesce(sealed_callback_secret, $2) WHERE id = $1
        RETURNING callback_format, sealed_callback_secret"""
    rows = await database.fetch(statement, tenant_id, sealed_secret)
    return StoredSigningSettings(*rows[0]) if rows else None


async def _fetch_credentials(database: Database, statement: str, *arguments: object) -> list[tuple[str, StoredCredential]]:
    """Returns a pair of tenant id and credential for each row that `statement` selects."""
    return [
        (tenant_id, StoredCredential(CallbackDefaults(url, method, events), *values))
        for tenant_id, url, method, events, *values in await database.fetch(statement, *arguments)
    ]
