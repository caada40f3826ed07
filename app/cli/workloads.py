"""`callgate workloads`: manages which Kubernetes service accounts may call Callgate without an API key.

Each of them acts for one tenant or as an operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from app.cli.keys import OptionalTenantId, require_tenant_or_operator
from app.cli.output import AsJson, show_table, show_values
from app.cli.processes import service_settings
from app.cli.tenants import run_with_tenant_administration
from app.tenants.scopes import Scope

if TYPE_CHECKING:
    from app.tenants.workload_store import WorkloadRow

workloads = typer.Typer(help="Kubernetes service accounts that call Callgate without an API key.", no_args_is_help=True)

_COLUMNS = ["id", "namespace", "service_account", "scopes", "issuer", "created_at"]


@workloads.command("create")
def create_workload(
    namespace: Annotated[str, typer.Option("--namespace", help="The namespace of the service account.")],
    service_account: Annotated[str, typer.Option("--service-account", help="The name of the service account.")],
    tenant: OptionalTenantId = None,
    operator: Annotated[bool, typer.Option("--operator", help="An operator's workload: it has no tenant.")] = False,
    scopes: Annotated[
        list[Scope] | None,
        typer.Option(
            "--scope",
            help="What the workload may do; repeat it for several. Default: call and read, for an operator's workload all.",
        ),
    ] = None,
    issuer: Annotated[
        str | None,
        typer.Option("--issuer", help="The issuer of its tokens (`iss`); by default CALLGATE_WORKLOAD_ISSUER."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a service account act for a tenant or, with --operator, for an operator.

    Every pod that runs with this service account can get its tokens. A service account acts for one tenant only.
    """
    from app.tenants.caller import COMMAND_LINE_CALLER
    from app.workloads.service_accounts import ServiceAccount

    owner = require_tenant_or_operator(tenant, operator)
    account = ServiceAccount(issuer or service_settings().workload_issuer or "", namespace, service_account)
    row, _ = run_with_tenant_administration(
        lambda service: service.create_workload(owner, account, scopes=scopes, creator=COMMAND_LINE_CALLER)
    )
    show_values(_workload_row(row), as_json=as_json)


@workloads.command("list")
def list_workloads(
    tenant: OptionalTenantId = None,
    operator: Annotated[bool, typer.Option("--operator", help="List the workloads of operators.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a tenant's or the operators' workloads: Kubernetes service accounts that may use the API."""
    owner = require_tenant_or_operator(tenant, operator)
    rows = [_workload_row(row) for row in run_with_tenant_administration(lambda service: service.list_workloads(owner))]
    show_table(rows, columns=_COLUMNS, as_json=as_json)


@workloads.command("delete")
def delete_workload(
    workload: Annotated[UUID, typer.Argument(metavar="WORKLOAD", help="The id, from `callgate workloads list`.")],
    as_json: AsJson = False,
) -> None:
    """Delete a workload, so that its tokens are refused from now on."""
    show_values(
        _workload_row(run_with_tenant_administration(lambda service: service.delete_workload(workload))), as_json=as_json
    )


def _workload_row(row: WorkloadRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "tenant": row.tenant_id,
        "namespace": row.namespace,
        "service_account": row.service_account,
        "scopes": row.scopes,
        "issuer": row.issuer,
        "created_at": row.created_at,
    }
