"""Reads all that belongs to one tenant, with the statements of the administration, in one transaction.

Each is a look-up in the index of its table. One statement for all of them would repeat what a row of each table is.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.console.reads import PAGE_SIZE, PageReads
from app.database.pool import Transactions
from app.scheduling.pace_limits import PaceLimits
from app.scheduling.pace_store import find_paces
from app.tenants.administration_store import (
    AccountRow,
    CredentialRow,
    KeyRow,
    TenantRow,
    find_tenant,
    list_accounts,
    list_credentials,
    list_keys,
    list_tenants,
)
from app.tenants.sip_credential_store import SipCredentialRow, list_sip_credentials
from app.tenants.workload_store import WorkloadRow, list_workloads

MAX_LISTED: Final = 200
"""Accounts, keys and the like of each kind that the page of a tenant shows."""


@dataclass(frozen=True, slots=True)
class TenantDetails:
    tenant: TenantRow
    accounts: list[AccountRow]
    credentials: list[CredentialRow]
    """The active ones, in the order to try them."""
    paces: dict[UUID, PaceLimits]
    """By the id of the account."""
    keys: list[KeyRow]
    sip_credentials: list[SipCredentialRow]
    workloads: list[WorkloadRow]


async def list_tenant_rows(database: Transactions, *, after: str | None) -> tuple[list[TenantRow], bool]:
    """Returns a page of tenants by id, and whether there are others."""
    async with PageReads(database).transaction() as connection:
        rows = await list_tenants(connection, after=after, limit=PAGE_SIZE + 1)
    return rows[:PAGE_SIZE], len(rows) > PAGE_SIZE


async def find_details(database: Transactions, tenant_id: str) -> TenantDetails | None:
    async with PageReads(database).transaction() as connection:
        tenant = await find_tenant(connection, tenant_id)
        if tenant is None:
            return None
        accounts = await list_accounts(connection, tenant_id, after=None, limit=MAX_LISTED)
        account_ids = [account.id for account in accounts]
        return TenantDetails(
            tenant=tenant,
            accounts=accounts,
            credentials=await list_credentials(connection, account_ids),
            paces=await find_paces(connection, account_ids),
            keys=await list_keys(connection, tenant_id, after=None, limit=MAX_LISTED),
            sip_credentials=await list_sip_credentials(connection, tenant_id, after=None, limit=MAX_LISTED),
            workloads=await list_workloads(connection, tenant_id, limit=MAX_LISTED),
        )
