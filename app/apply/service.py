"""Applies a declaration (a file of tenants) in one transaction. Calls the same administration methods as other commands."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.apply import store
from app.apply.changes import (
    ApiKeyRevocation,
    BaseUrlUpdate,
    ChangePlan,
    DeclaredChange,
    PaceUpdate,
    SipCredentialCreation,
    SipCredentialDeletion,
    SipCredentialReplacement,
    TenantCreation,
    TenantUpdate,
    TwilioCredentialAddition,
    TwilioCredentialRevocation,
    WorkloadDeletion,
    WorkloadUpsert,
)
from app.apply.document import MemberPath
from app.apply.plan import plan_tenant_changes
from app.apply.schemas import Declaration
from app.audit.events import Actor
from app.database.connection import Connection
from app.database.pool import TransactionRunner
from app.scheduling.administration import PaceAdministration
from app.security.keyring import Keyring
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from app.tenants.postponed_calls import StoredSettingsChange, apply_settings_to_waiting_calls


@dataclass(frozen=True, slots=True)
class SavepointRunner:
    """Runs transactions as savepoints in the open transaction of `connection`. Can replace a pool as a TransactionRunner.

    In this way, all administration methods that `callgate apply` calls share one transaction. If the block of `transaction`
    fails, only the changes of this block are rolled back.
    """

    connection: Connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.connection.transaction():
            yield self.connection


@dataclass(frozen=True, slots=True)
class DeclarationService:
    database: TransactionRunner
    keyring: Keyring
    actor: Actor
    workload_issuer: str | None = None

    async def preview_changes(self, declaration: Declaration, secrets: Mapping[MemberPath, str]) -> ChangePlan:
        """Returns the changes that `apply_declaration` would make. Changes and locks nothing.

        Raises DocumentInvalid if the changes cannot be made, and DatabaseUnavailable if the database cannot be read.
        """
        async with self.database.transaction() as connection:
            await store.make_transaction_read_only(connection)
            return await self._plan_changes(connection, declaration, secrets, lock=False)

    async def apply_declaration(self, declaration: Declaration, secrets: Mapping[MemberPath, str]) -> ChangePlan:
        """Makes all changes in one transaction, and returns them. First waits until no other `apply` runs.

        After the commit, applies hours and suspensions in the declaration to scheduled calls that already wait. If this method
        raises DocumentInvalid, AdministrationError or ApplyLocked, nothing was changed. It can also raise DatabaseUnavailable.
        If `commit_in_doubt` of that error is true, it is unknown whether the changes were made. If `settings_stored` is true,
        they were made, but may not yet apply to waiting calls.
        """
        plan = await self._plan_and_make_changes(declaration, secrets)
        # Also if nothing has changed: an earlier `apply` may have stored the settings and then failed to apply them to waiting
        # calls. The transaction above must not do this, because grants of the tenant's calls would wait for its end.
        await apply_settings_to_waiting_calls(
            self.database,
            *(
                StoredSettingsChange(tenant.id, hours_changed=tenant.has_member("hours"), is_stopped=bool(tenant.suspended))
                for tenant in declaration.tenants
            ),
        )
        return plan

    async def _plan_and_make_changes(self, declaration: Declaration, secrets: Mapping[MemberPath, str]) -> ChangePlan:
        """Plans the changes, makes them in one transaction, and returns them."""
        async with self.database.transaction() as connection:
            await store.acquire_apply_lock(connection)
            plan = await self._plan_changes(connection, declaration, secrets, lock=True)
            acting = SavepointRunner(connection), self.keyring, self.actor
            administration, paces = TenantAdministration(*acting), PaceAdministration(*acting)
            for change in plan.changes:
                if isinstance(change, PaceUpdate):
                    await paces.set_pace(change.tenant_id, account_sid=change.account_sid, change=change.pace)
                else:
                    await _apply_change(administration, change)
        return plan

    async def _plan_changes(
        self, connection: Connection, declaration: Declaration, secrets: Mapping[MemberPath, str], *, lock: bool
    ) -> ChangePlan:
        tenant_ids = [tenant.id for tenant in declaration.tenants]
        key_ids = [removal.key for tenant in declaration.tenants for removal in tenant.revoked or () if removal.key]
        stored = await store.read_tenants(connection, tenant_ids, key_ids=key_ids, lock=lock)
        accounts = list(declaration.service_accounts(self.workload_issuer))
        workloads = await store.read_workloads(connection, accounts, lock=lock)
        return plan_tenant_changes(declaration, secrets, stored, workloads, self.keyring, self.workload_issuer)


async def _apply_change(administration: TenantAdministration, change: DeclaredChange) -> None:
    match change:
        case TenantCreation(settings=settings):
            await administration.ensure_tenant(change.tenant_id, settings)
        case TenantUpdate(settings=settings):
            await administration.store_settings(change.tenant_id, settings)
        case BaseUrlUpdate(account_sid=account_sid, base_url=base_url):
            await administration.set_base_url(change.tenant_id, account_sid=account_sid, base_url=base_url)
        case TwilioCredentialAddition(account_sid=account_sid, secret=secret, key_sid=key_sid, base_url=base_url):
            await administration.add_credential(
                change.tenant_id, account_sid=account_sid, secret=secret, key_sid=key_sid, base_url=base_url
            )
        case TwilioCredentialRevocation(credential_id=credential_id):
            await administration.revoke_credential(change.tenant_id, credential_id)
        case ApiKeyRevocation(key_id=key_id):
            await administration.revoke_key(key_id, tenant_id=change.tenant_id)
        case SipCredentialCreation(name=name, username=username, password=password):
            await administration.create_sip_credential(change.tenant_id, name, username=username, password=password)
        case SipCredentialReplacement(name=name, username=username, password=password):
            await administration.replace_sip_credential(change.tenant_id, name, username=username, password=password)
        case SipCredentialDeletion(name=name):
            await administration.delete_sip_credential(change.tenant_id, name)
        case WorkloadUpsert(account=account, scopes=scopes, replaced_workload_id=replaces):
            if replaces is not None:
                await administration.delete_workload(replaces, tenant_id=change.tenant_id)
            await administration.create_workload(change.tenant_id, account, scopes=scopes, creator=COMMAND_LINE_CALLER)
        case WorkloadDeletion(workload_id=workload_id):
            await administration.delete_workload(workload_id, tenant_id=change.tenant_id)
        case _:
            raise TypeError("a change without a use case")
