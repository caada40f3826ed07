"""Manages tenants. The base classes manage the tenants' Twilio accounts, credentials, API keys, SIP credentials and workloads.

Every change is recorded in the audit log, in the same transaction. A request that changes nothing is not recorded. Methods
raise AdministrationError for an invalid or unknown id, and DatabaseUnavailable if the database cannot be used.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from app.audit.events import AuditAction
from app.database.connection import Connection
from app.setting_values import MAX_IN_FLIGHT_LIMIT
from app.tenants import administration_store as store
from app.tenants.administration_accounts import AccountAdministration
from app.tenants.administration_keys import ApiKeyAdministration
from app.tenants.administration_sip import SipCredentialAdministration
from app.tenants.administration_store import TenantRow, TenantSettings
from app.tenants.administration_workloads import WorkloadAdministration
from app.tenants.callback_settings import CallbackFormat
from app.tenants.errors import InvalidValue, ResourceExists, TenantVersionOutdated, no_such_tenant_error
from app.tenants.names import check_tenant_name
from app.tenants.postponed_calls import StoredSettingsChange, apply_settings_to_waiting_calls
from app.tenants.stored_secrets import associated_data_of_callback_secret, generate_callback_secret

SUSPENDED_DESCRIPTION = (
    "Whether creations are refused and scheduled calls are not dialled. Those expire at their `ring_by`. Records stay readable."
)
TENANT_ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class TenantAdministration(AccountAdministration, ApiKeyAdministration, SipCredentialAdministration, WorkloadAdministration):
    async def create_tenant(self, tenant_id: str, *, name: str) -> TenantRow:
        """Creates a tenant and returns it.

        If the tenant exists with this name, returns it unchanged. Raises ResourceExists if it exists with another name.
        """
        try:
            tenant, _ = await self.ensure_tenant(tenant_id, {"name": name})
        except ResourceExists:
            advice = f"see `callgate tenants show {tenant_id}`"
            raise ResourceExists(f"tenant {tenant_id} exists already with another name: {advice}") from None
        return tenant

    async def ensure_tenant(self, tenant_id: str, settings: TenantSettings) -> tuple[TenantRow, bool]:
        """Creates a tenant with these settings, which must include `name`. Returns the tenant, and whether it was created now.

        If a tenant with this id exists and has these settings, returns it unchanged. Raises ResourceExists if it has another
        value for one of them.
        """
        async with self.database.transaction() as connection:
            tenant = await self._insert_tenant(connection, tenant_id, name=settings["name"])
            if tenant is not None:
                return await self._store_changed_settings(connection, tenant, settings), True
            tenant = await self._lock_tenant(connection, tenant_id)
        if different := _names_of_differing_settings(tenant, settings):
            raise ResourceExists(f"The tenant exists with another {' and another '.join(different)}.")
        return tenant, False

    async def _insert_tenant(self, connection: Connection, tenant_id: str, *, name: str) -> TenantRow | None:
        """Inserts a tenant and returns it; None if the id is taken. Raises InvalidValue for an invalid id or name."""
        if not TENANT_ID_PATTERN.fullmatch(tenant_id):
            advice = "use lower-case letters, digits and '-', at most 63"
            raise InvalidValue("/id", "invalid_id", f"{tenant_id!r} is not a tenant id: {advice}")
        check_tenant_name(name)
        tenant = await store.insert_tenant(connection, tenant_id, name=name)
        if tenant is not None:
            await self._record_audit_event(connection, "tenant.create", tenant_id, tenant_id)
        return tenant

    async def list_tenants(self, *, after: str | None = None, limit: int | None = None) -> list[TenantRow]:
        """Returns up to `limit` tenants (all if None), sorted by id. With `after`, returns only tenants with a later id."""
        async with self.database.transaction() as connection:
            return await store.list_tenants(connection, after=after, limit=limit)

    async def get_tenant(self, tenant_id: str) -> TenantRow:
        async with self.database.transaction() as connection:
            return await self._require_tenant(connection, tenant_id)

    async def set_tenant_suspended(self, tenant_id: str, *, suspended: bool) -> TenantRow:
        """Suspends or resumes a tenant. A suspended tenant cannot create calls, but can read its data. Idempotent."""
        return await self.update_tenant(tenant_id, TenantSettings(suspended=suspended))

    async def update_tenant(
        self, tenant_id: str, changes: TenantSettings, *, expected_versions: Collection[str] | None = None
    ) -> TenantRow:
        """Changes the settings that are in `changes`, and returns the tenant.

        Changed calling hours also apply to scheduled calls that already wait. Once this method has returned, workers take no
        more scheduled calls of a suspended tenant, but still dial the calls that they took before. Raises
        TenantVersionOutdated if `expected_versions` is given and does not contain the tenant's current version
        (`TenantRow.version`).
        """
        tenant = await self.store_settings(tenant_id, changes, expected_versions=expected_versions)
        # Do this even if nothing has changed: an earlier request may have stored the settings and then failed to apply them to
        # waiting calls.
        await apply_settings_to_waiting_calls(
            self.database,
            StoredSettingsChange(tenant_id, hours_changed="hours" in changes, is_stopped=bool(changes.get("suspended"))),
        )
        return tenant

    async def store_settings(
        self, tenant_id: str, changes: TenantSettings, *, expected_versions: Collection[str] | None = None
    ) -> TenantRow:
        """Stores settings as `update_tenant` does, but does not apply them to scheduled calls that already wait.

        The caller must call `apply_settings_to_waiting_calls` after the transaction with the change has been committed.
        """
        async with self.database.transaction() as connection:
            tenant = await self._lock_tenant(connection, tenant_id)
            if expected_versions is not None and tenant.version not in expected_versions:
                raise TenantVersionOutdated(f"tenant {tenant_id} was changed meanwhile")
            return await self._store_changed_settings(connection, tenant, changes)

    async def _store_changed_settings(self, connection: Connection, tenant: TenantRow, settings: TenantSettings) -> TenantRow:
        """Stores the settings that differ from the tenant's current ones, and records the change in the audit log.

        Returns the tenant with its new settings. The caller must have locked the tenant's row.
        """
        changed = _names_of_differing_settings(tenant, settings)
        if not changed:
            return tenant
        if "name" in changed:
            check_tenant_name(settings["name"])
        all_settings = tenant.settings
        all_settings.update(settings)
        _require_valid_settings(all_settings)
        updated = await store.update_tenant_settings(connection, tenant.id, all_settings)
        if others := [member for member in changed if member != "suspended"]:
            await self._record_audit_event(connection, "tenant.update", tenant.id, tenant.id, others)
        if "suspended" in changed:
            action: AuditAction = "tenant.suspend" if all_settings["suspended"] else "tenant.resume"
            await self._record_audit_event(connection, action, tenant.id, tenant.id)
        return updated

    async def configure_callbacks(
        self,
        tenant_id: str,
        *,
        url: str | None = None,
        method: str | None = None,
        events: Sequence[str] | None = None,
        callback_format: CallbackFormat | None = None,
        clear: bool = False,
    ) -> TenantRow:
        """Changes where and how status callbacks are delivered, and returns the tenant.

        A parameter that is None leaves its setting unchanged. If `clear` is true, a `url`, `method` or `events` that is None
        removes its setting instead. An empty `events` always removes the events. Raises InvalidValue if the tenant would have
        a method or events but no URL.
        """
        changes = TenantSettings()
        if url is not None or clear:
            changes["status_callback"] = url
        if method is not None or clear:
            changes["status_callback_method"] = method
        if events is not None or clear:
            changes["status_callback_events"] = list(events) if events else None
        if callback_format is not None:
            changes["callback_format"] = callback_format
        return await self.update_tenant(tenant_id, changes)

    async def renew_callback_secret(self, tenant_id: str) -> str:
        """Replaces the secret that signs the tenant's deliveries (webhooks). Returns the new secret.

        The secret cannot be shown again. A delivery that is sent again later is signed with the new secret, too.
        """
        secret = generate_callback_secret()
        encrypted = self.keyring.encrypt(secret, associated_data=associated_data_of_callback_secret(tenant_id))
        async with self.database.transaction() as connection:
            if not await store.update_callback_secret(connection, tenant_id, encrypted):
                raise no_such_tenant_error(tenant_id)
            await self._record_audit_event(connection, "tenant.update", tenant_id, tenant_id, ["callback_secret"])
        return secret


def _names_of_differing_settings(tenant: TenantRow, settings: TenantSettings) -> list[str]:
    before: dict[str, object] = {**tenant.settings}
    return [name for name, value in settings.items() if before[name] != value]


def _require_valid_settings(settings: TenantSettings) -> None:
    if settings["status_callback"] is None and (settings["status_callback_method"] or settings["status_callback_events"]):
        message = "a default method or default events need a default URL"
        raise InvalidValue("/callbacks/url", "missing", message)
    limit = settings["max_in_flight"]
    if limit is not None and not 1 <= limit <= MAX_IN_FLIGHT_LIMIT:
        message = f"the limit of calls in flight is between 1 and {MAX_IN_FLIGHT_LIMIT}"
        raise InvalidValue("/limits/max_in_flight", "out_of_range", message)
