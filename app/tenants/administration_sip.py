"""Manages the SIP credentials of tenants. A SIP credential is a user name and a password, stored under a name.

No error message contains a user name or a password.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from uuid_utils.compat import uuid7

from app.security.keyring import Keyring
from app.sip import Severity, check_sip_auth
from app.tenants import sip_credential_store as store
from app.tenants.administration_base import Administration
from app.tenants.errors import InvalidValue, NoSuchResource, ResourceExists
from app.tenants.names import RESOURCE_NAME_ADVICE, RESOURCE_NAME_PATTERN
from app.tenants.sip_credential_store import EncryptedSipCredential, SipCredentialRow
from app.tenants.stored_secrets import associated_data_of_sip_password, associated_data_of_sip_username

_NAME_PATTERN = re.compile(RESOURCE_NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class SipCredentialAdministration(Administration):
    async def create_sip_credential(
        self, tenant_id: str, name: str, *, username: str, password: str
    ) -> tuple[SipCredentialRow, bool]:
        """Stores a user name and a password under a name. Returns the credential, and whether it was created now.

        If the tenant has a credential with this name already, returns it unchanged if user name and password are the same.
        Raises ResourceExists if they differ.
        """
        if not _NAME_PATTERN.fullmatch(name):
            raise InvalidValue("/name", "invalid_name", f"this is not a name of a SIP credential: {RESOURCE_NAME_ADVICE}")
        _require_valid_sip_auth(username, password)
        credential_id = uuid7()
        async with self.database.transaction() as connection:
            await self._require_tenant(connection, tenant_id)
            credential = await store.insert_sip_credential(
                connection,
                credential_id,
                tenant_id=tenant_id,
                name=name,
                **self._encrypt_sip_auth(credential_id, username, password),
            )
            if credential is not None:
                await self._record_audit_event(connection, "sip_credential.create", tenant_id, name)
                return credential, True
            stored = await store.lock_sip_credential(connection, tenant_id=tenant_id, name=name)
        if stored is None or not is_same_sip_auth(self.keyring, stored, username, password):
            raise ResourceExists(f"The tenant has a SIP credential {name} already, with another user name or password.")
        return stored.credential, False

    async def replace_sip_credential(self, tenant_id: str, name: str, *, username: str, password: str) -> SipCredentialRow:
        """Replaces user name and password of a SIP credential. Calls that are placed from now on use the new values.

        Raises NoSuchResource if the tenant has no SIP credential with this name.
        """
        _require_valid_sip_auth(username, password)
        async with self.database.transaction() as connection:
            stored = await store.lock_sip_credential(connection, tenant_id=tenant_id, name=name)
            if stored is None:
                await self._require_tenant(connection, tenant_id)
                raise _no_such_sip_credential_error(tenant_id, name)
            if is_same_sip_auth(self.keyring, stored, username, password):
                return stored.credential
            credential_id = stored.credential.id
            credential = await store.update_sip_credential(
                connection, credential_id, **self._encrypt_sip_auth(credential_id, username, password)
            )
            await self._record_audit_event(connection, "sip_credential.update", tenant_id, name, ["username", "password"])
        return credential

    async def list_sip_credentials(
        self, tenant_id: str, *, after: str | None = None, limit: int | None = None
    ) -> list[SipCredentialRow]:
        """Returns the tenant's SIP credentials, sorted by name, without user names and passwords.

        If `after` is given, returns only credentials whose names sort after it.
        """
        async with self.database.transaction() as connection:
            await self._require_tenant(connection, tenant_id)
            return await store.list_sip_credentials(connection, tenant_id, after=after, limit=limit)

    async def delete_sip_credential(self, tenant_id: str, name: str) -> SipCredentialRow:
        """Deletes the credential. Requests to create a call with it are refused from now on. Records of calls keep its name."""
        async with self.database.transaction() as connection:
            credential = await store.delete_sip_credential(connection, tenant_id=tenant_id, name=name)
            if credential is None:
                await self._require_tenant(connection, tenant_id)
                raise _no_such_sip_credential_error(tenant_id, name)
            await self._record_audit_event(connection, "sip_credential.delete", tenant_id, name)
        return credential

    def _encrypt_sip_auth(self, credential_id: UUID, username: str, password: str) -> dict[str, bytes]:
        return {
            "sealed_username": self.keyring.encrypt(username, associated_data=associated_data_of_sip_username(credential_id)),
            "sealed_password": self.keyring.encrypt(password, associated_data=associated_data_of_sip_password(credential_id)),
        }


def is_same_sip_auth(keyring: Keyring, stored: EncryptedSipCredential, username: str, password: str) -> bool:
    """Returns whether the stored credential has this user name and password. Compares in constant time.

    Returns False if the stored credential cannot be decrypted.
    """
    credential_id = stored.credential.id
    has_username = keyring.is_ciphertext_of(
        stored.username, username, associated_data=associated_data_of_sip_username(credential_id)
    )
    has_password = keyring.is_ciphertext_of(
        stored.password, password, associated_data=associated_data_of_sip_password(credential_id)
    )
    return has_username and has_password


def _require_valid_sip_auth(username: str, password: str) -> None:
    """Raises InvalidValue for a user name or password that Twilio would refuse."""
    for pointer, code, detail in sip_auth_errors(username, password):
        raise InvalidValue(pointer, code, f"{code}: {detail}")


def sip_auth_errors(username: str, password: str) -> Iterator[tuple[str, str, str]]:
    """Yields JSON pointer, code and detail for each reason why Twilio would refuse the user name or the password.

    No detail contains a user name or a password.
    """
    auth = check_sip_auth(username, password)
    for pointer, findings in (("/username", auth.username), ("/password", auth.password)):
        for finding in findings:
            if finding.severity is Severity.ERROR:
                yield pointer, finding.code, finding.detail


def _no_such_sip_credential_error(tenant_id: str, name: str) -> NoSuchResource:
    advice = f"see `callgate sip-credentials list {tenant_id}`"
    return NoSuchResource("SIP credential", f"tenant {tenant_id} has no SIP credential {name!r}: {advice}")
