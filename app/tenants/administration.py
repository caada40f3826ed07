"""Manages tenants, Twilio accounts, credentials and API keys (`callgate tenants|accounts|keys`).

Every change is recorded in the audit log, in the same transaction. What is already as requested is not recorded.
Methods raise OperatorError for an invalid or unknown id, and DatabaseUnavailable.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from app.audit.events import Actor
from app.audit.store import record
from app.database.connection import Connection
from app.database.pool import Transactions
from app.security.keyring import Keyring
from app.setting_values import parse_twilio_base_url
from app.tenants import administration_store as store
from app.tenants.administration_store import AccountRow, CredentialRow, KeyRow, TenantRow
from app.tenants.api_keys import KeyFormat, default_expiry, generate_key, key_prefix
from app.tenants.callback_form import CallbackForm
from app.tenants.caller import Caller, OperatorCaller, require_grantable
from app.tenants.errors import OperatorError, no_tenant
from app.tenants.scopes import ALL_SCOPES, DEFAULT_SCOPES, Scope, in_order
from app.tenants.stored_secrets import callback_secret_identity, credential_identity, generate_callback_secret

_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_KEY_SID = re.compile(r"SK[0-9a-fA-F]{32}")
_CALLBACK_MEMBERS = ("status_callback", "status_callback_method", "status_callback_events", "callback_format")


@dataclass(frozen=True, slots=True)
class TenantAdministration:
    database: Transactions
    keyring: Keyring
    actor: Actor

    async def create_tenant(self, tenant_id: str, *, name: str) -> TenantRow:
        if not _TENANT_ID.fullmatch(tenant_id):
            raise OperatorError(f"{tenant_id!r} is not a tenant id: use lower-case letters, digits and '-', at most 63")
        async with self.database.transaction() as connection:
            tenant = await store.insert_tenant(connection, tenant_id, name=name)
            if tenant is None:
                raise OperatorError(f"tenant {tenant_id} exists already")
            await record(connection, self.actor, action="tenant.create", tenant_id=tenant_id, subject=tenant_id)
        return tenant

    async def list_tenants(self) -> list[TenantRow]:
        async with self.database.transaction() as connection:
            return await store.list_tenants(connection)

    async def get_tenant(self, tenant_id: str) -> TenantRow:
        async with self.database.transaction() as connection:
            return await _require_tenant(connection, tenant_id)

    async def suspend_tenant(self, tenant_id: str, *, suspended: bool) -> TenantRow:
        """Suspends or resumes a tenant. Creations of a suspended tenant are refused; its records stay readable. Idempotent."""
        async with self.database.transaction() as connection:
            tenant = await _lock_tenant(connection, tenant_id)
            if suspended != (tenant.suspended_at is not None):
                tenant = await store.set_suspended(connection, tenant_id, suspended=suspended)
                await self._record_update(connection, tenant_id, ["suspended"])
        return tenant

    async def configure_callbacks(
        self,
        tenant_id: str,
        *,
        url: str | None = None,
        method: str | None = None,
        events: Sequence[str] | None = None,
        form: CallbackForm | None = None,
        clear: bool = False,
    ) -> TenantRow:
        """Changes the settings for deliveries that are given and returns the tenant.

        `clear` first removes URL, method and events.
        """
        defaults: dict[str, Any] = {
            "status_callback": url,
            "status_callback_method": method,
            "status_callback_events": events and list(events),
        }
        async with self.database.transaction() as connection:
            before = await _lock_tenant(connection, tenant_id)
            tenant = replace(before, **{name: value for name, value in defaults.items() if value is not None or clear})
            if form is not None:
                tenant = replace(tenant, callback_format=form)
            if tenant.status_callback is None and (tenant.status_callback_method or tenant.status_callback_events):
                raise OperatorError("a default method or default events need a default URL: give --url too")
            if changed := [name for name in _CALLBACK_MEMBERS if getattr(tenant, name) != getattr(before, name)]:
                await store.update_callbacks(connection, tenant)
                await self._record_update(connection, tenant_id, changed)
        return tenant

    async def renew_callback_secret(self, tenant_id: str) -> str:
        """Replaces the secret that signs deliveries, and returns it; it cannot be shown again. Later retries use it, too."""
        secret = generate_callback_secret()
        sealed = self.keyring.seal(secret, identity=callback_secret_identity(tenant_id))
        async with self.database.transaction() as connection:
            if not await store.update_callback_secret(connection, tenant_id, sealed):
                raise no_tenant(tenant_id)
            await self._record_update(connection, tenant_id, ["callback_secret"])
        return secret

    async def add_credential(
        self, tenant_id: str, *, account_sid: str, secret: str, key_sid: str | None, base_url: str | None
    ) -> CredentialRow:
        """Adds a credential, and its account if the tenant does not have it.

        Credentials are tried in the order of their ids.
        """
        if not _ACCOUNT_SID.fullmatch(account_sid):
            raise OperatorError("an account SID is AC and 32 hexadecimal digits")
        if key_sid is not None and not _KEY_SID.fullmatch(key_sid):
            raise OperatorError("an API key SID is SK and 32 hexadecimal digits")
        try:
            base_url = base_url and parse_twilio_base_url(base_url)
        except ValueError as error:
            raise OperatorError(f"the base URL {error}") from None
        credential_id = uuid7()
        sealed = self.keyring.seal(secret, identity=credential_identity(credential_id))
        async with self.database.transaction() as connection:
            await _require_tenant(connection, tenant_id)
            account = await self._upsert_account(connection, tenant_id, account_sid=account_sid, base_url=base_url)
            credential = await store.insert_credential(
                connection,
                credential_id,
                account_id=account.id,
                kind="api_key" if key_sid else "auth_token",
                username=key_sid or account_sid,
                sealed_secret=sealed,
            )
            await record(connection, self.actor, action="credential.add", tenant_id=tenant_id, subject=str(credential_id))
        return credential

    async def _upsert_account(
        self, connection: Connection, tenant_id: str, *, account_sid: str, base_url: str | None
    ) -> AccountRow:
        """Returns the tenant's account. It keeps its base URL unless another one is given."""
        account = await store.insert_account(
            connection, uuid7(), tenant_id=tenant_id, account_sid=account_sid, base_url=base_url
        )
        if account is not None:
            await record(connection, self.actor, action="account.create", tenant_id=tenant_id, subject=account_sid)
            return account
        account = await store.lock_account(connection, tenant_id=tenant_id, account_sid=account_sid)
        if base_url is not None and account.base_url != base_url:
            account = await store.set_base_url(connection, account.id, base_url)
            await record(
                connection,
                self.actor,
                action="account.update",
                tenant_id=tenant_id,
                subject=account_sid,
                changed=["base_url"],
            )
        return account

    async def list_accounts(self, tenant_id: str) -> list[tuple[AccountRow, list[CredentialRow]]]:
        """Returns the accounts, oldest first, each with its active credentials in the order to try them."""
        async with self.database.transaction() as connection:
            await _require_tenant(connection, tenant_id)
            accounts = await store.list_accounts(connection, tenant_id)
            credentials = await store.list_credentials(connection, [account.id for account in accounts])
        return [(account, [c for c in credentials if c.account_id == account.id]) for account in accounts]

    async def revoke_credential(self, tenant_id: str, credential_id: UUID) -> CredentialRow:
        async with self.database.transaction() as connection:
            credential = await store.lock_credential(connection, credential_id, tenant_id=tenant_id)
            if credential is None:
                raise OperatorError(f"tenant {tenant_id} has no credential {credential_id}: see `callgate accounts list`")
            if credential.revoked_at is None:
                credential = await store.revoke_credential(connection, credential_id)
                await record(
                    connection, self.actor, action="credential.revoke", tenant_id=tenant_id, subject=str(credential_id)
                )
        return credential

    async def create_key(
        self,
        tenant_id: str | None,
        *,
        name: str | None,
        creator: Caller | OperatorCaller,
        scopes: Collection[Scope] | None = None,
        expires_at: datetime | None = None,
        key_format: KeyFormat = "callgate",
    ) -> tuple[KeyRow, str]:
        """Returns the row of the new key, and the key. The key is not stored, so it cannot be shown again.

        Without `tenant_id` it is an operator's key. Without `scopes` a tenant's key has `DEFAULT_SCOPES`, and an operator's key
        has all. Without `expires_at`, `default_expiry` decides. Raises ScopeRequired or OperatorKeyRequired if `creator` has
        less than the new key.
        """
        wanted = frozenset(scopes or (ALL_SCOPES if tenant_id is None else DEFAULT_SCOPES))
        require_grantable(creator, wanted, tenant_id=tenant_id)
        key = generate_key(key_format)
        async with self.database.transaction() as connection:
            if tenant_id is not None:
                await _require_tenant(connection, tenant_id)
            row = await store.insert_key(
                connection,
                uuid7(),
                tenant_id=tenant_id,
                scopes=in_order(wanted),
                name=name,
                prefix=key_prefix(key),
                keyed_hash=self.keyring.keyed_hash(key.encode()),
                expires_at=expires_at or default_expiry(datetime.now(UTC)),
            )
            await record(connection, self.actor, action="key.create", tenant_id=tenant_id, subject=row.prefix)
        return row, key

    async def list_keys(self, tenant_id: str | None) -> list[KeyRow]:
        """Returns the keys of a tenant, oldest first; without a tenant, those of operators."""
        async with self.database.transaction() as connection:
            if tenant_id is not None:
                await _require_tenant(connection, tenant_id)
            return await store.list_keys(connection, tenant_id)

    async def revoke_key(self, prefix: str) -> KeyRow:
        async with self.database.transaction() as connection:
            key = await store.lock_key(connection, prefix=key_prefix(prefix))
            if key is None:
                raise OperatorError(f"there is no key {prefix}: see `callgate keys list`")
            if key.revoked_at is None:
                key = await store.revoke_key(connection, key.id)
                await record(connection, self.actor, action="key.revoke", tenant_id=key.tenant_id, subject=key.prefix)
        return key

    async def _record_update(self, connection: Connection, tenant_id: str, changed: Sequence[str]) -> None:
        await record(connection, self.actor, action="tenant.update", tenant_id=tenant_id, subject=tenant_id, changed=changed)


async def _require_tenant(connection: Connection, tenant_id: str) -> TenantRow:
    tenant = await store.find_tenant(connection, tenant_id)
    if tenant is None:
        raise no_tenant(tenant_id)
    return tenant


async def _lock_tenant(connection: Connection, tenant_id: str) -> TenantRow:
    tenant = await store.lock_tenant(connection, tenant_id)
    if tenant is None:
        raise no_tenant(tenant_id)
    return tenant
