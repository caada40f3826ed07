"""The actions on the page of a call. The audit log records all of them except reading the call. Does not import FastAPI."""

from dataclasses import dataclass
from uuid import UUID

from app.audit.events import Actor, AuditAction
from app.audit.store import record_audit_event
from app.calls.control.service import CallControl, ControlResult
from app.calls.service import CallService
from app.console.calls import store
from app.console.calls.records import CallHistory
from app.console.tenancy import caller_for_tenant
from app.database.pool import TransactionRunner
from app.deliveries.service import DeliveryService
from app.errors import CallNotFound
from app.tenants.caller import Caller, OperatorCaller

# This update ends a call whether it waits, rings or was answered.
_UPDATE_THAT_ENDS_CALL = {"status": "completed"}


async def find_call_history(database: TransactionRunner, call_id: UUID | str, *, tenant_id: str | None) -> CallHistory:
    """Returns the call with this id or sid, and its history.

    Raises CallNotFound if the tenant has no such call. An operator, whose `tenant_id` is None, may see all calls.
    """
    history = await store.read_call_history(database, call_id, tenant_id=tenant_id)
    if history is None:
        raise CallNotFound
    return history


@dataclass(frozen=True, slots=True)
class CallActions:
    """The actions of one person on calls.

    `client` has the tenant and the scopes of the person's session; `actor` names the person in the audit log.
    """

    database: TransactionRunner
    calls: CallService
    control: CallControl
    deliveries: DeliveryService
    client: Caller | OperatorCaller
    actor: Actor

    async def read_call_history(self, call_id: UUID) -> CallHistory:
        """Returns the call with its events and deliveries. Raises CallNotFound if the client's tenant has no such call."""
        return await find_call_history(self.database, call_id, tenant_id=self.client.tenant_id)

    async def reveal_personal_data(self, call_id: UUID) -> CallHistory:
        """Returns the call, and records in the audit log that its personal data is shown."""
        history = await self.read_call_history(call_id)
        await self._record_in_audit_log("call.reveal", history.call.tenant_id, call_id)
        return history

    async def end(self, call_id: UUID) -> ControlResult:
        """Ends the call. If it is not known yet whether the call has started, stores the request to end it.

        Records the action in the audit log first. Raises CallNotFound if the client's tenant has no such call.
        """
        caller = await self._caller_for_call(call_id)
        call = await self.calls.get(caller, str(call_id))
        await self._record_in_audit_log("call.end", caller.tenant_id, call_id)
        return await self.control.update(caller, call, _UPDATE_THAT_ENDS_CALL)

    async def make_delivery_due(self, call_id: UUID, delivery_id: UUID) -> None:
        """Makes the delivery due now, so that a worker sends it again.

        Raises CallNotFound if the client's tenant has no such call, and DeliveryNotFound if the call has no such delivery.
        """
        await self.deliveries.retry(await self._caller_for_call(call_id), str(call_id), delivery_id, actor=self.actor)

    async def _caller_for_call(self, call_id: UUID) -> Caller:
        """Returns the session's client if it acts for one tenant. For an operator, returns a Caller for the call's tenant."""
        if isinstance(self.client, Caller):
            return self.client
        return caller_for_tenant(self.client, (await self.read_call_history(call_id)).call.tenant_id)

    async def _record_in_audit_log(self, action: AuditAction, tenant_id: str, call_id: UUID) -> None:
        async with self.database.transaction() as connection:
            await record_audit_event(connection, self.actor, action=action, tenant_id=tenant_id, subject=str(call_id))
