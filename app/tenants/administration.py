"""Manage tenants, Twilio accounts, credentials and API keys (`callgate tenants|accounts|keys`).

Methods raise OperatorError for an invalid or unknown id, and DatabaseUnavailable.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from app.database.engine import Database, Session
from app.security.keyring import Keyring
from app.settings import parse_twilio_base_url
from app.tenants import repository
from app.tenants.api_keys import KeyFormat, generate_key, key_prefix
from app.tenants.errors import OperatorError, no_tenant
from app.tenants.models import ApiKey, Tenant, TwilioAccount, TwilioCredential

_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_KEY_SID = re.compile(r"SK[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class TenantAdministration:
    database: Database
    keyring: Keyring

    async def create_tenant(self, tenant_id: str, *, name: str) -> Tenant:
        if not _TENANT_ID.fullmatch(tenant_id):
            raise OperatorError(f"{tenant_id!r} is not a tenant id: use lower-case letters, digits and '-', at most 63")
        async with self.database.begin() as session:
            if await repository.get_tenant(session, tenant_id):
                raise OperatorError(f"tenant {tenant_id} exists already")
            tenant = Tenant(id=tenant_id, name=name)
            session.add(tenant)
        return tenant

    async def list_tenants(self) -> Sequence[Tenant]:
        async with self.database.begin() as session:
            return await repository.list_tenants(session)

    async def get_tenant(self, tenant_id: str) -> Tenant:
        async with self.database.begin() as session:
            return await self._require(session, tenant_id)

    async def suspend_tenant(self, tenant_id: str, *, suspended: bool) -> Tenant:
        """Suspends or resumes a tenant. Creations of a suspended tenant are refused; its records stay readable. Idempotent."""
        async with self.database.begin() as session:
            tenant = await repository.set_suspended(session, tenant_id, suspended=suspended)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant

    async def add_credential(
        self, tenant_id: str, *, account_sid: str, secret: str, key_sid: str | None, base_url: str | None
    ) -> TwilioCredential:
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
        async with self.database.begin() as session:
            await self._require(session, tenant_id)
            account = await repository.get_account(session, tenant_id=tenant_id, account_sid=account_sid)
            if account is None:
                account = TwilioAccount(id=uuid7(), tenant_id=tenant_id, account_sid=account_sid)
                session.add(account)
            if base_url is not None:
                account.base_url = base_url
            credential = TwilioCredential(
                id=uuid7(),
                account_id=account.id,
                kind="api_key" if key_sid else "auth_token",
                username=key_sid or account_sid,
            )
            credential.sealed_secret = self.keyring.seal(secret, identity=credential.identity)
            await session.flush()
            session.add(credential)
        return credential

    async def list_accounts(self, tenant_id: str) -> list[tuple[TwilioAccount, list[TwilioCredential]]]:
        async with self.database.begin() as session:
            await self._require(session, tenant_id)
            accounts = await repository.list_accounts(session, tenant_id)
            credentials = await repository.list_credentials(session, [account.id for account in accounts])
        return [(account, [c for c in credentials if c.account_id == account.id]) for account in accounts]

    async def last_uses(self, credential_ids: Sequence[UUID]) -> dict[UUID, datetime]:
        """When each credential was last sent to Twilio, to about a minute; those never used are left out."""
        async with self.database.begin() as session:
            return await repository.last_uses(session, credential_ids)

    async def revoke_credential(self, tenant_id: str, credential_id: UUID) -> TwilioCredential:
        async with self.database.begin() as session:
            credential = await repository.revoke_credential(session, credential_id, tenant_id=tenant_id)
        if credential is None:
            raise OperatorError(f"tenant {tenant_id} has no credential {credential_id}: see `callgate accounts list`")
        return credential

    async def create_key(
        self, tenant_id: str, *, name: str | None, expires_at: datetime | None, key_format: KeyFormat = "callgate"
    ) -> tuple[ApiKey, str]:
        """Returns the row of the new key, and the key. The key is not stored, so it cannot be shown again."""
        key = generate_key(key_format)
        row = ApiKey(
            id=uuid7(),
            tenant_id=tenant_id,
            name=name,
            prefix=key_prefix(key),
            keyed_hash=self.keyring.keyed_hash(key.encode()),
            expires_at=expires_at,
        )
        async with self.database.begin() as session:
            await self._require(session, tenant_id)
            session.add(row)
        return row, key

    async def list_keys(self, tenant_id: str) -> Sequence[ApiKey]:
        async with self.database.begin() as session:
            await self._require(session, tenant_id)
            return await repository.list_keys(session, tenant_id)

    async def revoke_key(self, prefix: str) -> ApiKey:
        async with self.database.begin() as session:
            key = await repository.revoke_key(session, prefix=key_prefix(prefix))
        if key is None:
            raise OperatorError(f"there is no key {prefix}: see `callgate keys list TENANT`")
        return key

    async def _require(self, session: Session, tenant_id: str) -> Tenant:
        tenant = await repository.get_tenant(session, tenant_id)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant
