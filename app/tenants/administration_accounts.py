"""Manages the Twilio accounts of tenants, and the credentials of these accounts."""

import re
from dataclasses import dataclass
from uuid import UUID

from uuid_utils.compat import uuid7

from app.database.connection import Connection
from app.setting_values import parse_twilio_base_url
from app.tenants import administration_store as store
from app.tenants.administration_base import Administration
from app.tenants.administration_store import AccountRow, CredentialRow
from app.tenants.errors import InvalidValue, NoSuchResource, ResourceExists
from app.tenants.stored_secrets import associated_data_of_credential
from app.twilio.schemas import ACCOUNT_SID_PATTERN

MAX_ACCOUNTS_PER_TENANT = 100
"""The maximum number of Twilio accounts of a tenant."""
MAX_ACTIVE_CREDENTIALS_PER_ACCOUNT = 20
"""The maximum number of active credentials of an account. Creating a call decrypts all of them."""
KEY_SID_PATTERN = re.compile(r"SK[0-9a-fA-F]{32}")
TWILIO_SECRET_PATTERN = re.compile(r"[!-~]{1,256}")
"""The pattern of an auth token or of an API key's secret. It excludes white space, which is often copied along."""
TWILIO_SECRET_ADVICE = "1 to 256 printable ASCII characters without spaces"  # noqa: S105  # not a secret


@dataclass(frozen=True, slots=True)
class AccountAdministration(Administration):
    async def add_credential(
        self, tenant_id: str, *, account_sid: str, secret: str, key_sid: str | None, base_url: str | None
    ) -> CredentialRow:
        """Adds a credential to a Twilio account and returns the credential. Creates the account if the tenant lacks it.

        `secret` is the secret of the API key with the SID `key_sid` or, if `key_sid` is None, an auth token. If the account has
        an active credential with this secret already, returns that credential unchanged. Requests to Twilio try older
        credentials of the account first. If `base_url` is None, an existing account keeps its base URL, and a new account uses
        CALLGATE_TWILIO_BASE_URL.
        """
        require_valid_sids(account_sid, key_sid)
        base_url = _valid_base_url(base_url)
        async with self.database.transaction() as connection:
            account = await self._upsert_account(connection, tenant_id, account_sid=account_sid, base_url=base_url)
            found = await self._find_credential_by_secret(connection, account, secret=secret, key_sid=key_sid)
            return found or await self._insert_credential(connection, account, secret=secret, key_sid=key_sid)

    async def create_account(
        self, tenant_id: str, *, account_sid: str, secret: str, key_sid: str | None, base_url: str | None
    ) -> tuple[AccountRow, list[CredentialRow], bool]:
        """Creates an account with its first credential: an API key or, if `key_sid` is None, an auth token.

        Returns the account, its active credentials, and whether the account was created now. If the tenant has the account
        already, returns it unchanged. Raises ResourceExists if the existing account lacks this credential, or if `base_url` is
        given and is not the account's base URL.
        """
        require_valid_sids(account_sid, key_sid)
        base_url = _valid_base_url(base_url)
        async with self.database.transaction() as connection:
            account = await self._insert_account(connection, tenant_id, account_sid=account_sid, base_url=base_url)
            if account is not None:
                return account, [await self._insert_credential(connection, account, secret=secret, key_sid=key_sid)], True
            account = await self._lock_account(connection, tenant_id, account_sid)
            if base_url not in (None, account.base_url):
                raise ResourceExists("The tenant has this account with another base_url.")
            if await self._find_credential_by_secret(connection, account, secret=secret, key_sid=key_sid) is None:
                raise ResourceExists("The tenant has this account with other credentials: add one to its credentials.")
            return account, await store.list_credentials(connection, [account.id]), False

    async def create_credential(
        self, tenant_id: str, *, account_sid: str, secret: str, key_sid: str | None
    ) -> tuple[CredentialRow, bool]:
        """Adds a credential to an existing account. Returns the credential, and whether it was created now.

        `secret` is the secret of the API key with the SID `key_sid` or, if `key_sid` is None, an auth token. If the account has
        an active credential with this secret already, returns that credential unchanged.
        """
        require_valid_sids(account_sid, key_sid)
        async with self.database.transaction() as connection:
            account = await self._lock_account(connection, tenant_id, account_sid)
            found = await self._find_credential_by_secret(connection, account, secret=secret, key_sid=key_sid)
            if found is not None:
                return found, False
            return await self._insert_credential(connection, account, secret=secret, key_sid=key_sid), True

    async def set_base_url(self, tenant_id: str, *, account_sid: str, base_url: str) -> AccountRow:
        """Changes the base URL of Twilio's API for an existing account. Returns the account."""
        checked = _valid_base_url(base_url)
        async with self.database.transaction() as connection:
            return await self._set_base_url(connection, await self._lock_account(connection, tenant_id, account_sid), checked)

    async def list_accounts(
        self, tenant_id: str, *, after: UUID | None = None, limit: int | None = None
    ) -> list[tuple[AccountRow, list[CredentialRow]]]:
        """Returns the accounts, oldest first, each with its active credentials in the order in which requests try them.

        With `after`, returns only accounts that are newer than the account with this id.
        """
        async with self.database.transaction() as connection:
            await self._require_tenant(connection, tenant_id)
            accounts = await store.list_accounts(connection, tenant_id, after=after, limit=limit)
            credentials = await store.list_credentials(connection, [account.id for account in accounts])
        return [(account, [c for c in credentials if c.account_id == account.id]) for account in accounts]

    async def revoke_credential(self, tenant_id: str, credential_id: UUID, *, account_sid: str | None = None) -> CredentialRow:
        """Revokes a credential of the tenant, and returns it. Revoking it again changes nothing.

        Raises NoSuchResource if the tenant has no such credential. If `account_sid` is given, also raises NoSuchResource if the
        credential belongs to another account.
        """
        async with self.database.transaction() as connection:
            credential = await store.lock_credential(connection, credential_id, tenant_id=tenant_id, account_sid=account_sid)
            if credential is None:
                advice = "see `callgate accounts list`"
                raise NoSuchResource("credential", f"tenant {tenant_id} has no credential {credential_id}: {advice}")
            if credential.revoked_at is None:
                credential = await store.revoke_credential(connection, credential_id)
                await self._record_audit_event(connection, "credential.revoke", tenant_id, str(credential_id))
        return credential

    async def _upsert_account(
        self, connection: Connection, tenant_id: str, *, account_sid: str, base_url: str | None
    ) -> AccountRow:
        """Creates the account, or sets the base URL of the existing one. Returns the account.

        If `base_url` is None, an existing account keeps its base URL.
        """
        account = await self._insert_account(connection, tenant_id, account_sid=account_sid, base_url=base_url)
        if account is not None:
            return account
        return await self._set_base_url(connection, await self._lock_account(connection, tenant_id, account_sid), base_url)

    async def _insert_account(
        self, connection: Connection, tenant_id: str, *, account_sid: str, base_url: str | None
    ) -> AccountRow | None:
        """Inserts the account and returns it. Returns None if the tenant has it already.

        Raises NoSuchResource if there is no such tenant. Raises InvalidValue if the tenant already has MAX_ACCOUNTS_PER_TENANT
        other accounts.
        """
        await self._lock_tenant(connection, tenant_id)
        account = await store.insert_account(
            connection, uuid7(), tenant_id=tenant_id, account_sid=account_sid, base_url=base_url
        )
        if account is None:
            return None
        if len(await store.find_accounts(connection, [tenant_id])) > MAX_ACCOUNTS_PER_TENANT:
            message = f"tenant {tenant_id} has {MAX_ACCOUNTS_PER_TENANT} accounts, the maximum"
            raise InvalidValue("/account_sid", "too_many_accounts", message)
        await self._record_audit_event(connection, "account.create", tenant_id, account_sid)
        return account

    async def _set_base_url(self, connection: Connection, account: AccountRow, base_url: str | None) -> AccountRow:
        if base_url is not None and account.base_url != base_url:
            account = await store.set_base_url(connection, account.id, base_url)
            await self._record_audit_event(connection, "account.update", account.tenant_id, account.account_sid, ["base_url"])
        return account

    async def _lock_account(self, connection: Connection, tenant_id: str, account_sid: str) -> AccountRow:
        account = await store.lock_account(connection, tenant_id=tenant_id, account_sid=account_sid)
        if account is None:
            await self._require_tenant(connection, tenant_id)
            raise NoSuchResource("account", f"tenant {tenant_id} has no account {account_sid}: see `callgate accounts list`")
        return account

    async def _insert_credential(
        self, connection: Connection, account: AccountRow, *, secret: str, key_sid: str | None
    ) -> CredentialRow:
        """Inserts a credential and returns it. The caller's transaction must have locked or inserted the account.

        Raises InvalidValue if the secret does not match TWILIO_SECRET_PATTERN, or if the account already has
        MAX_ACTIVE_CREDENTIALS_PER_ACCOUNT active credentials.
        """
        pointer = "/secret" if key_sid else "/auth_token"
        if not TWILIO_SECRET_PATTERN.fullmatch(secret):
            raise InvalidValue(pointer, "invalid_secret", f"a secret of Twilio has {TWILIO_SECRET_ADVICE}")
        limit = MAX_ACTIVE_CREDENTIALS_PER_ACCOUNT
        if len(await store.list_credentials(connection, [account.id])) >= limit:
            message = f"account {account.account_sid} has {limit} active credentials, the maximum: revoke one"
            raise InvalidValue(pointer, "too_many_credentials", message)
        credential_id = uuid7()
        credential = await store.insert_credential(
            connection,
            credential_id,
            account_id=account.id,
            kind="api_key" if key_sid else "auth_token",
            username=key_sid or account.account_sid,
            sealed_secret=self.keyring.encrypt(secret, associated_data=associated_data_of_credential(credential_id)),
        )
        await self._record_audit_event(connection, "credential.add", account.tenant_id, str(credential_id))
        return credential

    async def _find_credential_by_secret(
        self, connection: Connection, account: AccountRow, *, secret: str, key_sid: str | None
    ) -> CredentialRow | None:
        """Returns the account's active credential with this secret; None if the account has no such credential.

        Looks for the API key with the SID `key_sid` or, if `key_sid` is None, for an auth token. Ignores credentials that
        cannot be decrypted.
        """
        username = key_sid or account.account_sid
        sealed_secrets = await store.find_encrypted_secrets(connection, account.id, username=username)
        for credential in await store.list_credentials(connection, [account.id]):
            if credential.id in sealed_secrets and self.keyring.is_ciphertext_of(
                sealed_secrets[credential.id], secret, associated_data=associated_data_of_credential(credential.id)
            ):
                return credential
        return None


def require_valid_sids(account_sid: str, key_sid: str | None) -> None:
    if not ACCOUNT_SID_PATTERN.fullmatch(account_sid):
        raise InvalidValue("/account_sid", "invalid_sid", "an account SID is AC and 32 hexadecimal digits")
    if key_sid is not None and not KEY_SID_PATTERN.fullmatch(key_sid):
        raise InvalidValue("/key_sid", "invalid_sid", "an API key SID is SK and 32 hexadecimal digits")


def _valid_base_url(base_url: str | None) -> str | None:
    """Returns the base URL in the form in which it is stored. Raises InvalidValue for an invalid base URL. None stays None."""
    try:
        return base_url and parse_twilio_base_url(base_url)
    except ValueError as error:
        raise InvalidValue("/base_url", "invalid_url", f"the base URL {error}") from None
