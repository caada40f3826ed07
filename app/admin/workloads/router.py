"""Routes of a tenant's workloads."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request, Response

from app.admin.access import (
    BODY_ERRORS,
    CHANGE_ERRORS,
    EXAMPLE_TENANT_ID,
    SLOT_LIMITED_READ_ERRORS,
    TenantAdministrationDep,
    TenantIdDep,
    admin_router,
    mark_response_as_replayed,
    openapi_creation_responses,
    parse_body,
)
from app.admin.pages import PageDep
from app.admin.workloads import examples
from app.admin.workloads.schemas import NewWorkload, WorkloadPage, WorkloadRecord
from app.errors import AlreadyExists, ResourceNotFound, TenantNotFound
from app.http.authentication import ClientDep
from app.http.bodies import NO_BODY_ERRORS, JsonBody, refuse_body
from app.http.openapi import json_example_references, json_request_body
from app.http.operations import ADMIN_PREFIX
from app.http.problems import error_responses
from app.http.routes import needs
from app.tenants.scopes import Scope
from app.workloads.authentication import WorkloadTokenValidator
from app.workloads.service_accounts import ServiceAccount

router = admin_router()

_EXAMPLE_PATH = f"{ADMIN_PREFIX}/tenants/{EXAMPLE_TENANT_ID}/workloads"


@router.get(
    "/tenants/{tenant_id}/workloads",
    operation_id="list_workloads",
    summary="List a tenant's workloads",
    responses={
        200: {"content": json_example_references("workloads")},
        **error_responses(TenantNotFound, *SLOT_LIMITED_READ_ERRORS, instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def list_workloads(tenant_id: TenantIdDep, administration: TenantAdministrationDep, page: PageDep) -> WorkloadPage:
    """Lists the Kubernetes service accounts that act for the tenant, oldest first."""
    listed = await administration.list_workloads(tenant_id, after=page.after_id, limit=page.limit_with_lookahead)
    shown, next_cursor = page.page_and_next_cursor(listed, lambda row: row.id)
    return WorkloadPage(workloads=[WorkloadRecord.from_row(row) for row in shown], next_cursor=next_cursor)


@router.post(
    "/tenants/{tenant_id}/workloads",
    operation_id="create_workload",
    summary="Let a service account act for a tenant",
    status_code=201,
    response_model=WorkloadRecord,
    response_description="The service account acts for the tenant.",
    openapi_extra=json_request_body("NewWorkload", examples.CREATION_BODIES),
    responses={
        **openapi_creation_responses(
            WorkloadRecord,
            "workload",
            unchanged_description="The service account acts for the tenant with these scopes already. Nothing was changed.",
        ),
        **error_responses(TenantNotFound, AlreadyExists, *BODY_ERRORS, method="POST", instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="operator")
async def create_workload(
    request: Request,
    client: ClientDep,
    tenant_id: TenantIdDep,
    administration: TenantAdministrationDep,
    body: JsonBody,
    response: Response,
) -> WorkloadRecord:
    """Lets pods with this service account send requests for the tenant, with their service account token.

    If the same request is sent again, the answer is 200. A service account acts for one tenant: if it acts for another tenant
    or with other scopes, the answer is 409 `already-exists`. A tenant's own key cannot create workloads, because the service
    account could be another team's.
    """
    new = parse_body(NewWorkload, body)
    tokens: WorkloadTokenValidator | None = request.state.workload_tokens
    issuer = new.issuer or ("" if tokens is None else tokens.issuer)
    account = ServiceAccount(issuer, new.namespace, new.service_account)
    row, created = await administration.create_workload(tenant_id, account, creator=client, scopes=new.scopes)
    if not created:
        mark_response_as_replayed(response)
    return WorkloadRecord.from_row(row)


@router.delete(
    "/tenants/{tenant_id}/workloads/{workload_id}",
    operation_id="delete_workload",
    summary="Delete a workload",
    dependencies=[Depends(refuse_body)],
    status_code=204,
    response_description="The workload is deleted.",
    responses=error_responses(
        TenantNotFound,
        ResourceNotFound,
        *NO_BODY_ERRORS,
        *CHANGE_ERRORS,
        method="DELETE",
        instance=f"{_EXAMPLE_PATH}/{examples.WORKLOAD['id']}",
    ),
)
@needs(Scope.ADMIN, clients="any")
async def delete_workload(
    tenant_id: TenantIdDep,
    workload_id: Annotated[UUID, Path(description="The workload's id.", examples=[examples.WORKLOAD["id"]])],
    administration: TenantAdministrationDep,
) -> None:
    """Deletes the workload, so that tokens of its service account are refused from now on."""
    await administration.delete_workload(workload_id, tenant_id=tenant_id)
