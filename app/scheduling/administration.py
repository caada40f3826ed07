"""Sets and reads the pace (the dialling limits) of Twilio accounts. Each change is recorded in the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.scheduling.pace_limits import UNLIMITED_PACE, PaceChange, PaceLimits
from app.scheduling.pace_store import find_paces, lock_pace, write_pace
from app.tenants.administration_accounts import AccountAdministration
from app.tenants.administration_store import AccountRow, CredentialRow, list_credentials


@dataclass(frozen=True, slots=True)
class PaceAdministration(AccountAdministration):
    async def set_pace(
        self, tenant_id: str, *, account_sid: str, change: PaceChange | None
    ) -> tuple[AccountRow, list[CredentialRow], PaceLimits]:
        """Changes the pace (the dialling limits) of an existing account. `change=None` removes all limits.

        Returns the account, its active credentials and its new pace. Raises NoSuchResource if there is no such account, and
        InvalidValue for an invalid value.
        """
        async with self.database.transaction() as connection:
            account = await self._lock_account(connection, tenant_id, account_sid)
            # The lock on the account prevents concurrent changes of its pace. `lock_pace` also stops grants.
            before = (await find_paces(connection, [account.id])).get(account.id, UNLIMITED_PACE)
            pace = UNLIMITED_PACE if change is None else before.with_changes(change)
            if changed := pace.names_of_differing_limits(before):
                await lock_pace(connection, account.id)
                await write_pace(connection, account.id, pace)
                await self._record_audit_event(connection, "account.update", tenant_id, account_sid, changed)
            return account, await list_credentials(connection, [account.id]), pace

    async def find_paces(self, account_ids: Sequence[UUID]) -> dict[UUID, PaceLimits]:
        """Returns the pace (the dialling limits) of each account, by account id. Accounts without limits are left out."""
        async with self.database.transaction() as connection:
            return await find_paces(connection, account_ids)
