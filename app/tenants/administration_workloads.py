"""Manages workloads. A workload is a Kubernetes service account that acts for a tenant or for an operator."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from uuid_utils.compat import uuid7

from app.errors import OperatorKeyRequired
from app.tenants import workload_store as store
from app.tenants.administration_base import Administration
from app.tenants.caller import Caller, OperatorCaller, require_grantable_scopes, workload_name
from app.tenants.errors import InvalidValue, NoSuchResource, ResourceExists
from app.tenants.scopes import ALL_SCOPES, DEFAULT_SCOPES, Scope, sort_scopes
from app.tenants.workload_store import WorkloadRow
from app.workloads.service_accounts import ServiceAccount, is_namespace_name, is_service_account_name


@dataclass(frozen=True, slots=True)
class WorkloadAdministration(Administration):
    async def create_workload(
        self,
        tenant_id: str | None,
        account: ServiceAccount,
        *,
        creator: Caller | OperatorCaller,
        scopes: Collection[Scope] | None = None,
    ) -> tuple[WorkloadRow, bool]:
        """Creates a workload: lets a service account act for a tenant or, if `tenant_id` is None, for an operator.

        Returns the workload, and whether it was created now. An existing workload with the same tenant and scopes is returned
        unchanged. If `scopes` is None, a tenant's workload gets `DEFAULT_SCOPES`, and an operator's workload gets all scopes.

        Raises ResourceExists if the service account acts for another tenant or with other scopes, InvalidValue for an invalid
        name, and ScopeRequired if `creator` may not give one of the scopes. Raises OperatorKeyRequired if `creator` acts for a
        tenant: otherwise a tenant could register the service account of another team, and that team's requests would then act
        for this tenant.
        """
        if isinstance(creator, Caller):
            raise OperatorKeyRequired("Only an operator decides for which tenant a service account acts.")
        _require_valid_service_account(account)
        wanted = frozenset(scopes or (ALL_SCOPES if tenant_id is None else DEFAULT_SCOPES))
        require_grantable_scopes(creator, wanted, tenant_id=tenant_id)
        async with self.database.transaction() as connection:
            if tenant_id is not None:
                await self._require_tenant(connection, tenant_id)
            created = await store.insert_workload(connection, uuid7(), account, tenant_id=tenant_id, scopes=sort_scopes(wanted))
            if created is not None:
                await self._record_audit_event(connection, "workload.create", tenant_id, _audit_subject(created))
                return created, True
            existing = await store.find_workload(connection, account)
        if existing is None or (existing.tenant_id, existing.scopes) != (tenant_id, sort_scopes(wanted)):
            owner = "operators" if tenant_id is None else "this tenant"
            is_of_another = existing is not None and existing.tenant_id != tenant_id
            whom = "another tenant or for operators" if is_of_another else f"{owner} with other scopes"
            raise ResourceExists(f"The service account acts for {whom} already. Delete that workload first.")
        return existing, False

    async def list_workloads(
        self, tenant_id: str | None, *, after: UUID | None = None, limit: int | None = None
    ) -> list[WorkloadRow]:
        """Returns the workloads of a tenant or, if `tenant_id` is None, of all operators. The oldest workload comes first.

        If `after`, the id of a workload, is given, returns only newer workloads.
        """
        async with self.database.transaction() as connection:
            if tenant_id is not None:
                await self._require_tenant(connection, tenant_id)
            return await store.list_workloads(connection, tenant_id, after=after, limit=limit)

    async def delete_workload(self, workload_id: UUID, *, tenant_id: str | None = None) -> WorkloadRow:
        """Deletes a workload and returns it. Tokens of its service account are refused from now on.

        Raises NoSuchResource if there is no such workload, or if `tenant_id` is given and the workload does not belong to this
        tenant.
        """
        async with self.database.transaction() as connection:
            workload = await store.delete_workload(connection, workload_id, tenant_id=tenant_id)
            if workload is None:
                raise NoSuchResource("workload", f"there is no workload {workload_id}: see `callgate workloads list`")
            await self._record_audit_event(connection, "workload.delete", workload.tenant_id, _audit_subject(workload))
        return workload


def _audit_subject(workload: WorkloadRow) -> str:
    return workload_name(workload.namespace, workload.service_account)


def _require_valid_service_account(account: ServiceAccount) -> None:
    """Raises InvalidValue if the issuer is missing, or if the namespace or the name is invalid."""
    if not account.issuer:
        raise InvalidValue("/issuer", "missing", "a workload needs an issuer: give one, or set CALLGATE_WORKLOAD_ISSUER")
    if not is_namespace_name(account.namespace):
        raise InvalidValue("/namespace", "invalid_name", "a namespace has lower-case letters, digits and '-', at most 63")
    if not is_service_account_name(account.name):
        advice = "use lower-case letters, digits, '-' and '.', at most 253"
        raise InvalidValue("/service_account", "invalid_name", f"this is not the name of a service account: {advice}")
