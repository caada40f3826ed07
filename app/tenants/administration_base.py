"""The base class of the classes that manage tenants and their resources."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.audit.events import Actor, AuditAction
from app.audit.store import record_audit_event
from app.database.connection import Connection
from app.database.pool import TransactionRunner
from app.security.keyring import Keyring
from app.tenants.administration_store import TenantRow, find_tenant, lock_tenant
from app.tenants.errors import no_such_tenant_error


@dataclass(frozen=True, slots=True)
class Administration:
    """Base class of the classes that manage tenants and their resources.

    `actor` is the person or program that the audit log names for each change.
    """

    database: TransactionRunner
    keyring: Keyring
    actor: Actor

    async def _record_audit_event(
        self, connection: Connection, action: AuditAction, tenant_id: str | None, subject: str, changed: Sequence[str] = ()
    ) -> None:
        """Records a change by `actor` in the audit log. The parameters are those of `record_audit_event`."""
        await record_audit_event(connection, self.actor, action=action, tenant_id=tenant_id, subject=subject, changed=changed)

    async def _require_tenant(self, connection: Connection, tenant_id: str) -> TenantRow:
        tenant = await find_tenant(connection, tenant_id)
        if tenant is None:
            raise no_such_tenant_error(tenant_id)
        return tenant

    async def _lock_tenant(self, connection: Connection, tenant_id: str) -> TenantRow:
        tenant = await lock_tenant(connection, tenant_id)
        if tenant is None:
            raise no_such_tenant_error(tenant_id)
        return tenant
