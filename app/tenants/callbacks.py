"""A tenant's settings for deliveries: default URL, method and events, the form, and the signing secret."""

import base64
import binascii
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from app.database.engine import Database
from app.security.keyring import Keyring, SecretUnreadable
from app.tenants import repository
from app.tenants.cache import TTLCache, always_stale
from app.tenants.callback_form import Form
from app.tenants.errors import OperatorError, no_tenant
from app.tenants.models import Tenant

# https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
_MARK = "whsec_"
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class CallbackDefaults:
    """The status callback of creations that do not set one."""

    url: str | None
    method: str | None
    events: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Signing:
    form: Form
    secret: SecretStr


class TenantCallbacks:
    """Reads and changes the settings for deliveries. `is_coherent` is the same as for `TenantDirectory`."""

    def __init__(self, database: Database, keyring: Keyring, *, is_coherent: Callable[[], bool] = always_stale) -> None:
        self._database = database
        self._keyring = keyring
        self._signings = TTLCache[Signing](is_coherent=is_coherent)

    def invalidate(self) -> None:
        self._signings.invalidate()

    async def configure(
        self,
        tenant_id: str,
        *,
        url: str | None = None,
        method: str | None = None,
        events: Sequence[str] | None = None,
        form: Form | None = None,
        clear: bool = False,
    ) -> Tenant:
        """Changes the settings that are given and returns the tenant. `clear` first removes URL, method and events."""
        changes = {"status_callback": url, "status_callback_method": method, "status_callback_events": events and list(events)}
        async with self._database.begin() as session:
            tenant = await repository.lock_tenant(session, tenant_id)
            if tenant is None:
                raise no_tenant(tenant_id)
            for name, value in changes.items():
                if value is not None or clear:
                    setattr(tenant, name, value)
            if form is not None:
                tenant.callback_format = form
            if tenant.status_callback is None and (tenant.status_callback_method or tenant.status_callback_events):
                raise OperatorError("a default method or default events need a default URL: give --url too")
        return tenant

    async def renew_secret(self, tenant_id: str) -> str:
        """Replaces the secret and returns it; it cannot be shown again. Retries of earlier deliveries use it too."""
        async with self._database.begin() as session:
            tenant = await repository.lock_tenant(session, tenant_id)
            if tenant is None:
                raise no_tenant(tenant_id)
            return self._seal_new_secret(tenant)

    async def signing(self, tenant_id: str) -> Signing:
        """Returns the form and the secret for deliveries. Creates a secret if the tenant has none, so that all are signed.

        Raises OperatorError if the stored secret cannot be decrypted.
        """
        return await self._signings.get(tenant_id, lambda: self._read_signing(tenant_id))

    async def _read_signing(self, tenant_id: str) -> Signing:
        async with self._database.begin() as session:
            tenant = await repository.get_tenant(session, tenant_id)
            if tenant is not None and tenant.sealed_callback_secret is None:
                tenant = await repository.lock_tenant(session, tenant_id)
            if tenant is None:
                raise no_tenant(tenant_id)
            secret = self._open(tenant) if tenant.sealed_callback_secret else self._seal_new_secret(tenant)
            form: Form = "json" if tenant.callback_format == "json" else "twilio"
        return Signing(form, SecretStr(secret))

    def _open(self, tenant: Tenant) -> str:
        try:
            secret = self._keyring.open(tenant.sealed_callback_secret or b"", identity=tenant.callback_secret_identity)
            base64.b64decode(secret.removeprefix(_MARK), validate=True)
            return secret
        except binascii.Error:
            raise OperatorError(f"the callback secret of tenant {tenant.id} is not base64: renew it") from None
        except SecretUnreadable as error:
            raise OperatorError(f"the callback secret of tenant {tenant.id} cannot be opened: {error}") from None

    def _seal_new_secret(self, tenant: Tenant) -> str:
        secret = _MARK + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        tenant.sealed_callback_secret = self._keyring.seal(secret, identity=tenant.callback_secret_identity)
        return secret
