"""Creates, lists and revokes API keys. The default lifetime of a key is `DEFAULT_KEY_LIFETIME` in app/tenants/api_keys.py."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from app.errors import IdempotencyKeyReused
from app.tenants import administration_store as store
from app.tenants.administration_base import Administration
from app.tenants.administration_store import ApiKeyRow
from app.tenants.api_keys import DEFAULT_KEY_LIFETIME, ApiKeyFormat, api_key_public_part, generate_api_key
from app.tenants.caller import Caller, OperatorCaller, require_grantable_scopes
from app.tenants.errors import NoSuchResource
from app.tenants.names import check_key_name
from app.tenants.rotation_store import transaction_start
from app.tenants.scopes import ALL_SCOPES, DEFAULT_SCOPES, Scope, sort_scopes


@dataclass(frozen=True, slots=True)
class ApiKeyAdministration(Administration):
    default_lifetime: timedelta | None = DEFAULT_KEY_LIFETIME

    async def create_key(
        self,
        tenant_id: str | None,
        *,
        name: str | None,
        creator: Caller | OperatorCaller,
        scopes: Collection[Scope] | None = None,
        expires_at: datetime | None = None,
        key_format: ApiKeyFormat = "callgate",
    ) -> tuple[ApiKeyRow, str]:
        """Creates an API key. Returns its row and the key itself, which is not stored and cannot be shown again.

        If `tenant_id` is None, the key belongs to an operator. If `scopes` is None, a tenant's key gets `DEFAULT_SCOPES`, and
        an operator's key gets all scopes. If `expires_at` is None, the key expires after `default_lifetime`; if
        `default_lifetime` is None too, the key never expires. Raises ScopeRequired or OperatorKeyRequired if `creator` may not
        create a key with these scopes for this tenant (`require_grantable_scopes`).
        """
        row, key = await self._create_key(
            tenant_id,
            name=name,
            creator=creator,
            scopes=scopes,
            expires_at=expires_at,
            key_format=key_format,
            idempotency_key=None,
        )
        if key is None:
            raise RuntimeError("without an idempotency key, each key is new")
        return row, key

    async def create_key_idempotently(
        self,
        tenant_id: str,
        *,
        name: str | None,
        creator: Caller | OperatorCaller,
        scopes: Collection[Scope] | None,
        expires_at: datetime | None,
        key_format: ApiKeyFormat,
        idempotency_key: str | None,
    ) -> tuple[ApiKeyRow, str | None]:
        """Creates an API key as `create_key` does, but at most one for each `idempotency_key` of the tenant.

        If an earlier request with this idempotency key created an API key, returns that key's current row, and None in place of
        the key itself, which is not stored. Raises IdempotencyKeyReused if the earlier request had another name, other scopes
        or another expiry. If `idempotency_key` is None, always creates a new API key.
        """
        return await self._create_key(
            tenant_id,
            name=name,
            creator=creator,
            scopes=scopes,
            expires_at=expires_at,
            key_format=key_format,
            idempotency_key=idempotency_key,
        )

    async def _create_key(
        self,
        tenant_id: str | None,
        *,
        name: str | None,
        creator: Caller | OperatorCaller,
        scopes: Collection[Scope] | None,
        expires_at: datetime | None,
        key_format: ApiKeyFormat,
        idempotency_key: str | None,
    ) -> tuple[ApiKeyRow, str | None]:
        wanted = frozenset(scopes or (ALL_SCOPES if tenant_id is None else DEFAULT_SCOPES))
        require_grantable_scopes(creator, wanted, tenant_id=tenant_id)
        check_key_name(name)
        key = generate_api_key(key_format)
        async with self.database.transaction() as connection:
            if tenant_id is not None:
                await self._require_tenant(connection, tenant_id)
            row = await store.insert_api_key(
                connection,
                uuid7(),
                tenant_id=tenant_id,
                scopes=sort_scopes(wanted),
                name=name,
                prefix=api_key_public_part(key),
                keyed_hash=self.keyring.keyed_hash(key.encode()),
                expires_at=expires_at or self._default_expiry(await transaction_start(connection)),
                idempotency_key=idempotency_key,
            )
            if row is not None:
                await self._record_audit_event(connection, "key.create", tenant_id, row.prefix)
                return row, key
            existing = await store.find_key_by_idempotency_key(connection, tenant_id, idempotency_key)
        expires_at = expires_at or self._default_expiry(existing.created_at)
        if (existing.name, existing.scopes, existing.expires_at) != (name, sort_scopes(wanted), expires_at):
            raise IdempotencyKeyReused("This Idempotency-Key was used to create another API key.")
        return existing, None

    def _default_expiry(self, created_at: datetime) -> datetime | None:
        return None if self.default_lifetime is None else created_at + self.default_lifetime

    async def list_keys(self, tenant_id: str | None, *, after: UUID | None = None, limit: int | None = None) -> list[ApiKeyRow]:
        """Returns the API keys of a tenant or, if `tenant_id` is None, of all operators. The oldest key comes first.

        If `after`, the id of a key, is given, returns only newer keys.
        """
        async with self.database.transaction() as connection:
            if tenant_id is not None:
                await self._require_tenant(connection, tenant_id)
            return await store.list_keys(connection, tenant_id, after=after, limit=limit)

    async def revoke_key(self, prefix: str, *, tenant_id: str | None = None) -> ApiKeyRow:
        """Revokes the API key whose public part is `prefix`, and returns its row. Revoking it again changes nothing.

        Raises NoSuchResource if there is no such key, or if `tenant_id` is given and the key does not belong to this tenant.
        """
        async with self.database.transaction() as connection:
            key = await store.lock_api_key(connection, prefix=api_key_public_part(prefix))
            if key is None or tenant_id not in (None, key.tenant_id):
                raise NoSuchResource("key", f"there is no key {prefix}: see `callgate keys list`")
            if key.revoked_at is None:
                key = await store.revoke_api_key(connection, key.id)
                await self._record_audit_event(connection, "key.revoke", key.tenant_id, key.prefix)
        return key
