"""Looks up API keys, workloads, Twilio accounts, their credentials, and SIP credentials for requests.

Reads are batched and cached. A change of these data by any process empties the caches of all processes.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from pydantic import SecretStr

from app.database.batcher import Batcher
from app.database.engine import Database, Session
from app.errors import DatabaseUnavailable, NoUsableCredentials
from app.security.keyring import Keyring, SecretUnreadable
from app.tenants import repository
from app.tenants.api_keys import api_key_public_part
from app.tenants.cache import IntervalLimit, TTLCache, never_coherent
from app.tenants.caller import Caller, OperatorCaller, workload_name
from app.tenants.directory_store import (
    CallbackDefaults,
    StoredCredential,
    find_api_keys,
    find_sip_credentials,
    find_workloads,
    list_account_credentials,
    list_auth_tokens,
    list_credentials_of_usable_accounts,
)
from app.tenants.scopes import known_scopes
from app.tenants.sip_auth import SipAuth
from app.twilio.schemas import Credential
from app.workloads.service_accounts import ServiceAccount

logger = structlog.stdlib.get_logger(__name__)

# The minimum time between two rehashes of an API key by this process. While encryption keys are rotated, old and new processes
# have different newest keys. Without a minimum, they would undo each other's hash at each use, which empties all caches.
_MIN_REHASH_INTERVAL_S = 600.0


@dataclass(frozen=True, slots=True)
class AuthenticatedApiKey:
    """The client to which a valid API key of a request belongs. `expires_at` is None if the key never expires."""

    client: Caller | OperatorCaller
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class UsableAccount:
    """A Twilio account for placing calls, with its active credentials in the order in which requests to Twilio try them."""

    account_id: UUID
    account_sid: str
    credentials: tuple[Credential, ...]
    rejected: frozenset[str]
    """The `Credential.reference` of each credential that Twilio refused when it was last used."""
    has_auth_token: bool
    """Whether an auth token can be decrypted. Twilio signs callbacks only with auth tokens, never with an API key's secret."""
    callbacks: CallbackDefaults
    has_pace_limits: bool
    """Whether a limit is set for the account's calls per second or for its concurrent calls."""


def api_key_digest(key: str) -> bytes:
    """Returns the SHA-256 of an API key. Caches use it in place of the key, which then does not stay in memory."""
    return hashlib.sha256(key.encode()).digest()


class TenantDirectory:
    """Looks up API keys, workloads, accounts and credentials, and caches them while `is_coherent` returns true.

    `is_coherent` may return true only while every change in the database leads to a call of `invalidate`.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        *,
        is_coherent: Callable[[], bool] = never_coherent,
        on_key_use: Callable[[str], None] | None = None,
    ) -> None:
        """Creates empty caches. `on_key_use` is called with the public part of each valid API key that is looked up."""
        self._database = database
        self._keyring = keyring
        self._on_key_use = on_key_use
        # A read never joins a statement that is already running: that statement may have missed a change made before the read.
        self._stored_keys = Batcher(partial(find_api_keys, database))
        self._stored_workloads = Batcher(partial(find_workloads, database))
        self._stored_credentials = Batcher(partial(list_credentials_of_usable_accounts, database))
        self._stored_auth_tokens = Batcher(partial(list_auth_tokens, database))
        self._stored_sip_credentials = Batcher(partial(find_sip_credentials, database))
        self._keys = TTLCache[AuthenticatedApiKey | None](is_coherent=is_coherent)
        self._workloads = TTLCache[Caller | OperatorCaller | None](is_coherent=is_coherent)
        self._usable_accounts = TTLCache[UsableAccount | None](is_coherent=is_coherent)
        self._account_ids = TTLCache[UUID | None](is_coherent=is_coherent)
        self._account_credentials = TTLCache[tuple[Credential, ...]](is_coherent=is_coherent)
        self._auth_tokens = TTLCache[tuple[Credential, ...]](is_coherent=is_coherent)
        self._sip_auths = TTLCache[SipAuth | None](is_coherent=is_coherent)
        self._rehashes = IntervalLimit(_MIN_REHASH_INTERVAL_S)
        self._caches: tuple[TTLCache[Any], ...] = (
            self._keys,
            self._workloads,
            self._usable_accounts,
            self._account_ids,
            self._account_credentials,
            self._auth_tokens,
            self._sip_auths,
        )

    def invalidate(self) -> None:
        """Empties the caches. Call this after every change of the data, and if notifications of changes may have been lost."""
        for cache in self._caches:
            cache.invalidate()

    async def find_api_key(self, key: str) -> AuthenticatedApiKey | None:
        """Returns the client of an API key, and when the key expires; None if the key is unknown, expired or revoked."""
        return self._mark_used_unless_expired(await self._keys.get_or_read(api_key_digest(key), lambda: self._read_key(key)))

    def cached_api_key(self, key: str) -> AuthenticatedApiKey | None:
        """Returns the cached result of `find_api_key`; None if no valid result is cached. Does not read the database."""
        return self._mark_used_unless_expired(self._keys.peek(api_key_digest(key)))

    def _mark_used_unless_expired(self, found: AuthenticatedApiKey | None) -> AuthenticatedApiKey | None:
        """Calls `on_key_use` for the key, and returns `found`. If the key has expired or `found` is None, only returns None."""
        if found is None or (found.expires_at and found.expires_at <= datetime.now(UTC)):
            return None
        if self._on_key_use:
            self._on_key_use(found.client.name)
        return found

    async def _read_key(self, key: str) -> AuthenticatedApiKey | None:
        prefix = api_key_public_part(key)
        found = await self._stored_keys.submit(prefix)
        if (
            found is None
            or found.revoked_at is not None
            or not self._keyring.matches_keyed_hash(found.keyed_hash, key.encode())
        ):
            return None
        if self._keyring.is_outdated_hash(found.keyed_hash) and self._rehashes.try_acquire(found.id):
            # Only a request has the plain key, so the key is rehashed during a request. A failure does not matter: the old hash
            # still matches.
            with contextlib.suppress(DatabaseUnavailable):
                async with self._database.begin() as session:
                    hashed = self._keyring.keyed_hash(key.encode())
                    await repository.rehash_api_key(session, found.id, old_hash=found.keyed_hash, new_hash=hashed)
        scopes = known_scopes(found.scopes)
        if found.tenant_id is None:
            return AuthenticatedApiKey(OperatorCaller(found.id, prefix, scopes), found.expires_at)
        suspended = found.suspended_at is not None
        caller = Caller(found.tenant_id, found.id, prefix, suspended, scopes, found.max_in_flight)
        return AuthenticatedApiKey(caller, found.expires_at)

    async def find_client_of_workload(self, account: ServiceAccount) -> Caller | OperatorCaller | None:
        """Returns the client whose requests carry this service account's tokens; None if the account is not a workload."""
        return await self._workloads.get_or_read(account, lambda: self._read_workload(account))

    async def _read_workload(self, account: ServiceAccount) -> Caller | OperatorCaller | None:
        found = await self._stored_workloads.submit(account)
        if found is None:
            return None
        name, scopes = workload_name(account.namespace, account.name), known_scopes(found.scopes)
        if found.tenant_id is None:
            return OperatorCaller(found.id, name, scopes, "workload")
        suspended = found.suspended_at is not None
        return Caller(found.tenant_id, found.id, name, suspended, scopes, found.max_in_flight, "workload")

    async def find_account_id(self, tenant_id: str, *, account_sid: str) -> UUID | None:
        """Returns Callgate's id of the tenant's Twilio account with this SID; None if the tenant does not have the account."""
        return await self._account_ids.get_or_read(
            (tenant_id, account_sid), lambda: self._read_account_id(tenant_id, account_sid)
        )

    async def _read_account_id(self, tenant_id: str, account_sid: str) -> UUID | None:
        async with self._database.begin() as session:
            account = await repository.find_account_by_sid(session, tenant_id=tenant_id, account_sid=account_sid)
        return account.id if account else None

    async def find_usable_account(self, tenant_id: str, *, account_sid: str | None) -> UsableAccount | None:
        """Returns the tenant's account with this SID or, if `account_sid` is None, the tenant's oldest account.

        Ignores accounts without an active credential. Returns None if no account is left. Raises NoUsableCredentials if none of
        the account's stored secrets can be decrypted.
        """
        found = await self._usable_accounts.get_or_read(
            (tenant_id, account_sid), lambda: self._read_usable_account(tenant_id, account_sid)
        )
        if found and not found.credentials:
            raise NoUsableCredentials(
                f"The stored secrets of Twilio account {found.account_sid} cannot be opened, so it cannot be used; "
                "ask the operator to add its credential again."
            )
        return found

    async def _read_usable_account(self, tenant_id: str, account_sid: str | None) -> UsableAccount | None:
        credentials = await self._stored_credentials.submit((tenant_id, account_sid))
        if not credentials:
            return None
        account = credentials[0]
        opened = tuple(self._decrypt_readable_credentials(credentials))
        rejected = frozenset(str(credential.id) for credential in credentials if credential.rejected_at)
        references = {credential.reference for credential in opened}
        has_auth_token = any(credential.kind == "auth_token" and str(credential.id) in references for credential in credentials)
        return UsableAccount(
            account.account_id,
            account.account_sid,
            opened,
            rejected,
            has_auth_token,
            account.callbacks,
            account.has_pace_limits,
        )

    async def mark_credentials_rejected_and_accepted(
        self, session: Session, *, rejected: set[str], accepted: set[str], reason: str
    ) -> None:
        """Records which credentials Twilio refused, for this `reason`, and which credentials Twilio accepted.

        Both sets contain ids of credentials (`Credential.reference`). From now on, requests try refused credentials last, until
        Twilio accepts them again.
        """
        if rejected:
            await repository.set_credential_rejection(session, [UUID(reference) for reference in rejected], reason=reason)
        if accepted:
            await repository.set_credential_rejection(session, [UUID(reference) for reference in accepted], reason=None)

    async def auth_tokens(self, account_id: UUID) -> tuple[Credential, ...]:
        """Returns the account's active auth tokens that can be decrypted. Twilio may sign callbacks with any of them."""
        return await self._auth_tokens.get_or_read(account_id, lambda: self._read_auth_tokens(account_id))

    async def _read_auth_tokens(self, account_id: UUID) -> tuple[Credential, ...]:
        return tuple(self._decrypt_readable_credentials(await self._stored_auth_tokens.submit(account_id)))

    async def active_credentials(self, account_id: UUID) -> tuple[Credential, ...]:
        """Returns the active credentials of an account that can be decrypted, in the order in which requests try them."""
        return await self._account_credentials.get_or_read(account_id, lambda: self._read_credentials(account_id))

    async def _read_credentials(self, account_id: UUID) -> tuple[Credential, ...]:
        return tuple(self._decrypt_readable_credentials(await list_account_credentials(self._database, account_id)))

    async def sip_auth(self, tenant_id: str, name: str) -> SipAuth | None:
        """Returns user name and password of a SIP credential; None if the tenant has no SIP credential with this name.

        Raises NoUsableCredentials if user name or password cannot be decrypted.
        """
        return await self._sip_auths.get_or_read((tenant_id, name), lambda: self._read_sip_auth(tenant_id, name))

    async def _read_sip_auth(self, tenant_id: str, name: str) -> SipAuth | None:
        stored = await self._stored_sip_credentials.submit((tenant_id, name))
        if stored is None:
            return None
        try:
            username = self._keyring.decrypt(stored.sealed_username, associated_data=stored.username_associated_data)
            password = self._keyring.decrypt(stored.sealed_password, associated_data=stored.password_associated_data)
        except SecretUnreadable as error:
            logger.error("sip_credential_unreadable", tenant_id=tenant_id, name=name, reason=str(error))
            raise NoUsableCredentials(
                f"The stored SIP credential {name} cannot be opened, so it cannot be used; ask the operator to replace it."
            ) from None
        return SipAuth(SecretStr(username), SecretStr(password))

    def _decrypt_readable_credentials(self, credentials: Sequence[StoredCredential]) -> list[Credential]:
        opened = []
        for credential in credentials:
            try:
                secret = self._keyring.decrypt(credential.sealed_secret, associated_data=credential.secret_associated_data)
            except SecretUnreadable as error:
                logger.error(
                    "credential_unreadable",
                    credential_id=str(credential.id),
                    account_sid=credential.account_sid,
                    reason=str(error),
                )
                continue
            opened.append(
                Credential(
                    credential.account_sid, credential.username, SecretStr(secret), credential.base_url, str(credential.id)
                )
            )
        return opened
