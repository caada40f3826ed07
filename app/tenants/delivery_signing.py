"""Reads the format and the signing secret of a tenant's deliveries (webhooks). `TenantAdministration` changes both."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from app.database.engine import Database
from app.security.keyring import Keyring, SecretUnreadable
from app.tenants.cache import TTLCache, never_coherent
from app.tenants.callback_settings import CallbackFormat
from app.tenants.directory_store import add_callback_secret_if_missing, find_signing_settings
from app.tenants.errors import AdministrationError, no_such_tenant_error
from app.tenants.stored_secrets import CALLBACK_SECRET_PREFIX, associated_data_of_callback_secret, generate_callback_secret


@dataclass(frozen=True, slots=True)
class SigningSettings:
    """The format of a tenant's webhooks, as Twilio's form fields or as JSON, and the secret that signs them."""

    callback_format: CallbackFormat
    secret: SecretStr


class SigningSettingsCache:
    """Reads and caches the format and the signing secret of tenants' webhooks.

    Uses cached values only while `is_coherent` returns true. The function may return true only while every change in the
    database leads to a call of `invalidate`.
    """

    def __init__(self, database: Database, keyring: Keyring, *, is_coherent: Callable[[], bool] = never_coherent) -> None:
        self._database = database
        self._keyring = keyring
        self._signings = TTLCache[SigningSettings](is_coherent=is_coherent)

    def invalidate(self) -> None:
        self._signings.invalidate()

    async def settings_of_tenant(self, tenant_id: str) -> SigningSettings:
        """Returns the format and the signing secret of the tenant's deliveries. Creates a secret if the tenant has none.

        Raises AdministrationError if the tenant does not exist, or if the stored secret cannot be decrypted or is not base64.
        """
        return await self._signings.get_or_read(tenant_id, lambda: self._read_settings(tenant_id))

    async def _read_settings(self, tenant_id: str) -> SigningSettings:
        stored = await find_signing_settings(self._database, tenant_id)
        if stored is not None and stored.sealed_secret is None:
            encrypted = self._keyring.encrypt(
                generate_callback_secret(), associated_data=associated_data_of_callback_secret(tenant_id)
            )
            stored = await add_callback_secret_if_missing(self._database, tenant_id, encrypted)
        if stored is None:
            raise no_such_tenant_error(tenant_id)
        callback_format: CallbackFormat = "json" if stored.callback_format == "json" else "twilio"
        return SigningSettings(callback_format, SecretStr(self._decrypt(tenant_id, stored.sealed_secret or b"")))

    def _decrypt(self, tenant_id: str, encrypted: bytes) -> str:
        try:
            secret = self._keyring.decrypt(encrypted, associated_data=associated_data_of_callback_secret(tenant_id))
            base64.b64decode(secret.removeprefix(CALLBACK_SECRET_PREFIX), validate=True)
            return secret
        except binascii.Error:
            raise AdministrationError(f"the callback secret of tenant {tenant_id} is not base64: renew it") from None
        except SecretUnreadable as error:
            raise AdministrationError(f"the callback secret of tenant {tenant_id} cannot be opened: {error}") from None
