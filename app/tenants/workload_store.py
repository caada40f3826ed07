"""SQL of workloads. Uses asyncpg without SQLAlchemy, as `administration_store` does. Functions never commit."""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.database.connection import Connection
from app.workloads.service_accounts import ServiceAccount


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """A Kubernetes service account and its scopes. `tenant_id` is None for an operator's workload."""

    id: UUID
    issuer: str
    namespace: str
    service_account: str
    tenant_id: str | None
    scopes: list[str]
    created_at: datetime


COLUMNS = "id, issuer, namespace, service_account, tenant_id, scopes, created_at"


async def insert_workload(
    connection: Connection, workload_id: UUID, account: ServiceAccount, *, tenant_id: str | None, scopes: Sequence[str]
) -> WorkloadRow | None:
    """Inserts a workload and returns its row. Returns None if the service account is a workload already."""
    statement = f"""INSERT INTO workload (id, issuer, namespace, service_account, tenant_id, scopes)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (issuer, namespace, service_account) DO NOTHING RETURNING {COLUMNS}"""
    values = (workload_id, account.issuer, account.namespace, account.name, tenant_id, scopes)
    row = await connection.fetchrow(statement, *values)
    return None if row is None else WorkloadRow(*row)


async def find_workload(connection: Connection, account: ServiceAccount, *, lock: bool = False) -> WorkloadRow | None:
    """Returns the workload of a service account; None if the service account is not a workload.

    If `lock` is true, also locks the workload's row until the transaction ends.
    """
    statement = f"""SELECT {COLUMNS} FROM workload WHERE issuer = $1 AND namespace = $2 AND service_account = $3
        {"FOR NO KEY UPDATE" if lock else ""}"""
    row = await connection.fetchrow(statement, account.issuer, account.namespace, account.name)
    return None if row is None else WorkloadRow(*row)


async def list_workloads(
    connection: Connection, tenant_id: str | None, *, after: UUID | None = None, limit: int | None = None
) -> list[WorkloadRow]:
    """Returns the workloads of a tenant or, if `tenant_id` is None, of all operators. The oldest workload comes first.

    If `after`, the id of a workload, is given, returns only newer workloads. `limit` is the maximum number of workloads.
    """
    owner, values = ("tenant_id IS NULL", ()) if tenant_id is None else ("tenant_id = $3", (tenant_id,))
    statement = f"""SELECT {COLUMNS} FROM workload WHERE ($1::uuid IS NULL OR id > $1) AND {owner} ORDER BY id LIMIT $2"""
    return [WorkloadRow(*row) for row in await connection.fetch(statement, after, limit, *values)]


async def delete_workload(connection: Connection, workload_id: UUID, *, tenant_id: str | None) -> WorkloadRow | None:
    """Deletes a workload and returns it. Returns None if there is no such workload.

    If `tenant_id` is given, a workload of another tenant is not deleted, and None is returned.
    """
    owner, values = ("", ()) if tenant_id is None else ("AND tenant_id = $2", (tenant_id,))
    row = await connection.fetchrow(f"DELETE FROM workload WHERE id = $1 {owner} RETURNING {COLUMNS}", workload_id, *values)
    return None if row is None else WorkloadRow(*row)
