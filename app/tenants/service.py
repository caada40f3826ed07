"""What operators do with tenants (`callgate tenants|accounts|keys`), and what a request asks about them."""

import contextlib
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal
from uuid import UUID

import structlog
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from app.database import Database, Session
from app.database.batcher import Batcher
from app.errors import DatabaseUnavailable, NoUsableCredentials
from app.security.keyring import Keyring, SecretUnreadable
from app.settings import parse_twilio_base_url
from app.tenants import repository
from app.tenants.cache import TTLCache, always_stale
from app.tenants.callbacks import CallbackDefaults
from app.tenants.errors import OperatorError, no_tenant
from app.tenants.group_reads import StoredCredential, find_keys, list_auth_tokens, list_credentials
from app.tenants.models import ApiKey, Tenant, TwilioAccount, TwilioCredential
from app.twilio.schemas import Credential

logger = structlog.stdlib.get_logger(__name__)

KeyFormat = Literal["callgate", "twilio"]

KEY_MARK = "cgk"
_ID_DIGITS = 12
_TWILIO_KEY_BYTES = 16
_TWILIO_KEY = re.compile(r"[0-9a-f]{32}")
_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_KEY_SID = re.compile(r"SK[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key that was found to be genuine."""

    key_id: UUID
    tenant_id: str
    suspended: bool
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class CallableAccount:
    """An account with its active credentials, in the order in which they are tried."""

    account_id: UUID
    account_sid: str
    credentials: tuple[Credential, ...]
    rejected: frozenset[str]
    """References of those that Twilio refused the last time."""
    has_auth_token: bool
    """Callbacks are signed with an auth token; an API key's secret signs nothing."""
    callbacks: CallbackDefaults


def key_prefix(key: str) -> str:
    """The public part of an API key, by which it is found and named; of a key in Twilio's format, one that follows from it."""
    if _TWILIO_KEY.fullmatch(key):
        return f"{KEY_MARK}_{hashlib.sha256(b'callgate key id:' + key.encode()).hexdigest()[:_ID_DIGITS]}"
    return "_".join(key.split("_")[:2])


class TenantService:
    """Caches only while `is_coherent` returns true: while `invalidate` is called for each change that any process makes."""

    def __init__(self, database: Database, keyring: Keyring, *, is_coherent: Callable[[], bool] = always_stale) -> None:
        self._database = database
        self._keyring = keyring
        # Together, and never with a statement that began before one asked: it would be older than a change that came first.
        self._stored_keys = Batcher(partial(find_keys, database))
        self._stored_credentials = Batcher(partial(list_credentials, database))
        self._stored_auth_tokens = Batcher(partial(list_auth_tokens, database))
        self._keys = TTLCache[KnownKey | None](is_coherent=is_coherent)
        self._callable_accounts = TTLCache[CallableAccount | None](is_coherent=is_coherent)
        self._account_ids = TTLCache[UUID | None](is_coherent=is_coherent)
        self._account_credentials = TTLCache[tuple[Credential, ...]](is_coherent=is_coherent)
        self._auth_tokens = TTLCache[tuple[str, ...]](is_coherent=is_coherent)

    def invalidate(self) -> None:
        """Read everything anew: something has changed, or may have."""
        for memory in (self._keys, self._callable_accounts, self._account_ids, self._account_credentials, self._auth_tokens):
            memory.invalidate()

    async def create_tenant(self, tenant_id: str, *, name: str) -> Tenant:
        if not _TENANT_ID.fullmatch(tenant_id):
            raise OperatorError(f"{tenant_id!r} is no tenant id: use lower-case letters, digits and '-', at most 63")
        async with self._database.begin() as session:
            if await repository.get_tenant(session, tenant_id):
                raise OperatorError(f"tenant {tenant_id} exists already")
            tenant = Tenant(id=tenant_id, name=name)
            session.add(tenant)
        return tenant

    async def list_tenants(self) -> Sequence[Tenant]:
        async with self._database.begin() as session:
            return await repository.list_tenants(session)

    async def get_tenant(self, tenant_id: str) -> Tenant:
        async with self._database.begin() as session:
            return await self._require(session, tenant_id)

    async def suspend_tenant(self, tenant_id: str, *, suspended: bool) -> Tenant:
        """Suspended: creations are refused, records stay readable. Doing it twice changes nothing."""
        async with self._database.begin() as session:
            tenant = await repository.set_suspended(session, tenant_id, suspended=suspended)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant

    async def add_credential(
        self, tenant_id: str, *, account_sid: str, secret: str, key_sid: str | None, base_url: str | None
    ) -> TwilioCredential:
        """Add an account with its first credential, or another credential to it (they are tried in order)."""
        if not _ACCOUNT_SID.fullmatch(account_sid):
            raise OperatorError("an account SID is AC and 32 hexadecimal digits")
        if key_sid is not None and not _KEY_SID.fullmatch(key_sid):
            raise OperatorError("an API key SID is SK and 32 hexadecimal digits")
        try:
            base_url = base_url and parse_twilio_base_url(base_url)
        except ValueError as error:
            raise OperatorError(f"the base URL {error}") from None
        async with self._database.begin() as session:
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
            credential.sealed_secret = self._keyring.seal(secret, identity=credential.identity)
            await session.flush()
            session.add(credential)
        return credential

    async def list_accounts(self, tenant_id: str) -> list[tuple[TwilioAccount, list[TwilioCredential]]]:
        async with self._database.begin() as session:
            await self._require(session, tenant_id)
            accounts = await repository.list_accounts(session, tenant_id)
            credentials = await repository.list_credentials(session, [account.id for account in accounts])
        return [(account, [c for c in credentials if c.account_id == account.id]) for account in accounts]

    async def revoke_credential(self, tenant_id: str, credential_id: UUID) -> TwilioCredential:
        async with self._database.begin() as session:
            credential = await repository.revoke_credential(session, credential_id, tenant_id=tenant_id)
        if credential is None:
            raise OperatorError(f"tenant {tenant_id} has no credential {credential_id}: see `callgate accounts list`")
        return credential

    async def create_key(
        self, tenant_id: str, *, name: str | None, expires_at: datetime | None, key_format: KeyFormat = "callgate"
    ) -> tuple[ApiKey, str]:
        """The key's row and the key itself, which is told this once and never again."""
        key = secrets.token_hex(_TWILIO_KEY_BYTES)
        if key_format == "callgate":
            key = f"{KEY_MARK}_{secrets.token_hex(_ID_DIGITS // 2)}_{secrets.token_urlsafe(32)}"
        row = ApiKey(
            id=uuid7(),
            tenant_id=tenant_id,
            name=name,
            prefix=key_prefix(key),
            keyed_hash=self._keyring.keyed_hash(key.encode()),
            expires_at=expires_at,
        )
        async with self._database.begin() as session:
            await self._require(session, tenant_id)
            session.add(row)
        return row, key

    async def list_keys(self, tenant_id: str) -> Sequence[ApiKey]:
        async with self._database.begin() as session:
            await self._require(session, tenant_id)
            return await repository.list_keys(session, tenant_id)

    async def revoke_key(self, prefix: str) -> ApiKey:
        async with self._database.begin() as session:
            key = await repository.revoke_key(session, prefix=key_prefix(prefix))
        if key is None:
            raise OperatorError(f"there is no key {prefix}: see `callgate keys list TENANT`")
        return key

    async def find_key(self, key: str) -> KnownKey | None:
        """Who shows this API key; None when it is unknown, expired or revoked."""
        known = await self._keys.get(hashlib.sha256(key.encode()).digest(), lambda: self._read_key(key))
        return None if known is None or (known.expires_at and known.expires_at <= datetime.now(UTC)) else known

    async def _read_key(self, key: str) -> KnownKey | None:
        found = await self._stored_keys.submit(key_prefix(key))
        if found is None or found.revoked_at is not None or not self._keyring.matches(found.keyed_hash, key.encode()):
            return None
        if self._keyring.is_outdated(found.keyed_hash):
            # Only now is the key itself at hand. It is known either way.
            with contextlib.suppress(DatabaseUnavailable):
                async with self._database.begin() as session:
                    hashed = self._keyring.keyed_hash(key.encode())
                    await repository.rehash_key(session, found.id, was=found.keyed_hash, becomes=hashed)
        return KnownKey(found.id, found.tenant_id, found.suspended_at is not None, found.expires_at)

    async def account_id(self, tenant_id: str, *, account_sid: str) -> UUID | None:
        """None unless the account is this tenant's."""
        return await self._account_ids.get((tenant_id, account_sid), lambda: self._read_account_id(tenant_id, account_sid))

    async def _read_account_id(self, tenant_id: str, account_sid: str) -> UUID | None:
        async with self._database.begin() as session:
            account = await repository.get_account(session, tenant_id=tenant_id, account_sid=account_sid)
        return account.id if account else None

    async def dialable(self, tenant_id: str, *, account_sid: str | None) -> CallableAccount | None:
        """The named account of the tenant, or its oldest one with an active credential; None when it has none.

        Raises NoUsableCredentials when no stored secret of the account opens.
        """
        found = await self._callable_accounts.get(
            (tenant_id, account_sid), lambda: self._read_callable_account(tenant_id, account_sid)
        )
        if found and not found.credentials:
            raise NoUsableCredentials(
                f"The stored secrets of Twilio account {found.account_sid} cannot be opened, so it cannot be used; "
                "an operator adds its credential anew."
            )
        return found

    async def _read_callable_account(self, tenant_id: str, account_sid: str | None) -> CallableAccount | None:
        listed = [
            credential
            for credential in await self._stored_credentials.submit(tenant_id)
            if account_sid in (None, credential.account_sid)
        ]
        if not listed:
            return None
        account = listed[0]
        credentials = [credential for credential in listed if credential.account_id == account.account_id]
        opened = tuple(self._open_all(account, credentials))
        rejected = frozenset(str(credential.id) for credential in credentials if credential.rejected_at)
        has_auth_token = any(credential.kind == "auth_token" for credential in credentials)
        return CallableAccount(account.account_id, account.account_sid, opened, rejected, has_auth_token, account.callbacks)

    async def mark_credentials(self, session: Session, *, rejected: set[str], accepted: set[str], reason: str) -> None:
        """Remember what Twilio said of these (by their references): refused ones are tried last from now on."""
        if rejected:
            await repository.mark_rejected(session, [UUID(reference) for reference in rejected], reason=reason)
        if accepted:
            await repository.mark_rejected(session, [UUID(reference) for reference in accepted], reason=None)

    async def auth_tokens(self, account_id: UUID) -> tuple[str, ...]:
        """Every not revoked auth token of the account: any of them may have signed a callback."""
        return await self._auth_tokens.get(account_id, lambda: self._read_auth_tokens(account_id))

    async def _read_auth_tokens(self, account_id: UUID) -> tuple[str, ...]:
        tokens = await self._stored_auth_tokens.submit(account_id)
        return tuple(access.password.get_secret_value() for access in self._open_all(tokens[0], tokens)) if tokens else ()

    async def credentials(self, account_id: UUID) -> tuple[Credential, ...]:
        """The active credentials of an account in the order in which they are tried; empty when none opens."""
        return await self._account_credentials.get(account_id, lambda: self._read_credentials(account_id))

    async def _read_credentials(self, account_id: UUID) -> tuple[Credential, ...]:
        async with self._database.begin() as session:
            account = await repository.get_account_by_id(session, account_id)
            credentials = await repository.list_credentials(session, [account_id])
        return tuple(self._open_all(account, credentials)) if account else ()

    def _open_all(
        self, account: TwilioAccount | StoredCredential, credentials: Sequence[TwilioCredential | StoredCredential]
    ) -> list[Credential]:
        opened = []
        for credential in credentials:
            try:
                secret = self._keyring.open(credential.sealed_secret, identity=credential.identity)
            except SecretUnreadable as error:
                logger.error(
                    "credential_unreadable",
                    credential_id=str(credential.id),
                    account_sid=account.account_sid,
                    reason=str(error),
                )
                continue
            opened.append(
                Credential(account.account_sid, credential.username, SecretStr(secret), account.base_url, str(credential.id))
            )
        return opened

    async def _require(self, session: Session, tenant_id: str) -> Tenant:
        tenant = await repository.get_tenant(session, tenant_id)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant
