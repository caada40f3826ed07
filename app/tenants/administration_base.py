"""The base of the use cases of administration."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.audit.events import Actor, AuditAction
from app.audit.store import record
from app.database.connection import Connection
from app.database.pool import Transactions
from app.security.keyring import Keyring
from app.tenants.administration_store import TenantRow, find_tenant
from app.tenants.errors import no_tenant


@dataclass(frozen=True, slots=True)
class Administration:
    """The base of all use cases that change something for an operator.

    The audit log names `actor` as the one who made the change.
    """

    database: Transactions
    keyring: Keyring
    actor: Actor

    async def _record(
        self, connection: Connection, action: AuditAction, tenant_id: str | None, subject: str, changed: Sequence[str] = ()
    ) -> None:
        """Records a change in its transaction; `record` in app.audit.store describes the arguments."""
        await record(connection, self.actor, action=action, tenant_id=tenant_id, subject=subject, changed=changed)

    async def _require_tenant(self, connection: Connection, tenant_id: str) -> TenantRow:
        tenant = await find_tenant(connection, tenant_id)
        if tenant is None:
            raise no_tenant(tenant_id)
        return tenant
