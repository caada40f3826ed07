"""Reads the list of tenants, and one tenant with its accounts, credentials, API keys, SIP credentials and workloads."""
# ruff: noqa: S608  # The statement is put together from constants.

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.console.page_size import PAGE_SIZE
from app.console.reads import TimeLimitedReads, fetch_with_time_limit
from app.database.pool import TransactionRunner
from app.scheduling import pace_store
from app.scheduling.pace_limits import PaceLimits
from app.tenants import sip_credential_store, workload_store
from app.tenants.administration_store import (
    ACCOUNT_COLUMNS,
    API_KEY_COLUMNS,
    CREDENTIAL_COLUMNS,
    TENANT_COLUMNS,
    AccountRow,
    ApiKeyRow,
    CredentialRow,
    TenantRow,
    list_tenants,
)
from app.tenants.credential_order import CREDENTIAL_ORDER_SQL
from app.tenants.sip_credential_store import SipCredentialRow
from app.tenants.workload_store import WorkloadRow

MAX_LISTED_RECORDS: Final = 200
"""Maximum number of records of one kind, such as API keys, on the page of a tenant."""


@dataclass(frozen=True, slots=True)
class TenantDetails:
    tenant: TenantRow
    accounts: list[AccountRow]
    credentials: list[CredentialRow]
    """The active credentials, in the order in which they are tried."""
    paces: dict[UUID, PaceLimits]
    """The limits of calls per second and of concurrent calls of each account, by the account's id."""
    keys: list[ApiKeyRow]
    sip_credentials: list[SipCredentialRow]
    workloads: list[WorkloadRow]


def _rows_array_sql(statement: str) -> str:
    """Returns SQL for an array of the statement's rows, in the order of the statement."""
    return f"array(SELECT each FROM ({statement}) AS each)"


_WHERE_TENANT_SQL: Final = f"tenant_id = $1 ORDER BY {{order}} LIMIT {MAX_LISTED_RECORDS}"
_OF_ACCOUNTS_SQL: Final = "= ANY (array(SELECT id FROM account))"
_CREDENTIALS_SQL: Final = f"""SELECT {CREDENTIAL_COLUMNS} FROM twilio_credential AS credential
    WHERE account_id {_OF_ACCOUNTS_SQL} AND revoked_at IS NULL ORDER BY {CREDENTIAL_ORDER_SQL}"""
_PACES_SQL: Final = f"SELECT subject_id, {pace_store.PACE_LIMIT_COLUMNS_SQL} FROM pace WHERE subject_id {_OF_ACCOUNTS_SQL}"
_KEYS_SQL: Final = (
    f"SELECT {API_KEY_COLUMNS} FROM api_key WHERE {_WHERE_TENANT_SQL.format(order='revoked_at IS NOT NULL, id DESC')}"
)
_SIP_CREDENTIALS_SQL: Final = (
    f"SELECT {sip_credential_store.COLUMNS} FROM sip_credential WHERE {_WHERE_TENANT_SQL.format(order='name')}"
)
_WORKLOADS_SQL: Final = f"SELECT {workload_store.COLUMNS} FROM workload WHERE {_WHERE_TENANT_SQL.format(order='id')}"
_DETAILS_SQL: Final = f"""
    WITH account AS (SELECT {ACCOUNT_COLUMNS} FROM twilio_account WHERE {_WHERE_TENANT_SQL.format(order="id")})
    SELECT tenant, {_rows_array_sql("SELECT * FROM account ORDER BY id")}, {_rows_array_sql(_CREDENTIALS_SQL)},
        {_rows_array_sql(_PACES_SQL)}, {_rows_array_sql(_KEYS_SQL)},
        {_rows_array_sql(_SIP_CREDENTIALS_SQL)}, {_rows_array_sql(_WORKLOADS_SQL)}
    FROM (SELECT {TENANT_COLUMNS} FROM tenant WHERE id = $1) AS tenant
"""


async def list_tenant_rows(database: TransactionRunner, *, after: str | None) -> tuple[list[TenantRow], bool]:
    """Returns a page of tenants in the order of their ids, and whether a further page follows.

    The page begins with the first id that comes after `after`.
    """
    async with TimeLimitedReads(database).transaction() as connection:
        rows = await list_tenants(connection, after=after, limit=PAGE_SIZE + 1)
    return rows[:PAGE_SIZE], len(rows) > PAGE_SIZE


async def find_tenant_details(database: TransactionRunner, tenant_id: str) -> TenantDetails | None:
    """Returns a tenant with its accounts, keys, SIP credentials and workloads, and with credentials and limits of the accounts.

    Returns None if there is no such tenant.
    """
    for tenant, accounts, credentials, paces, keys, sip_credentials, workloads in await fetch_with_time_limit(
        database, _DETAILS_SQL, tenant_id
    ):
        return TenantDetails(
            tenant=TenantRow.from_columns(*tenant),
            accounts=[AccountRow(*row) for row in accounts],
            credentials=[CredentialRow(*row) for row in credentials],
            paces=pace_store.pace_limits_by_account_or_queue(paces),
            keys=[ApiKeyRow(*row) for row in keys],
            sip_credentials=[SipCredentialRow(*row) for row in sip_credentials],
            workloads=[WorkloadRow(*row) for row in workloads],
        )
    return None
