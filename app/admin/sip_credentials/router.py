"""Routes of a tenant's SIP credentials."""

from typing import Annotated

from fastapi import Depends, Path, Response

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
from app.admin.sip_credentials import examples
from app.admin.sip_credentials.schemas import NewSipAuth, NewSipCredential, SipCredentialPage, SipCredentialRecord
from app.errors import AlreadyExists, ResourceNotFound, TenantNotFound
from app.http.bodies import NO_BODY_ERRORS, JsonBody, refuse_body
from app.http.limits import NO_NUL_PATTERN
from app.http.openapi import json_example_references, json_request_body
from app.http.operations import ADMIN_PREFIX
from app.http.problems import error_responses
from app.http.routes import needs
from app.tenants.scopes import Scope

router = admin_router()

_EXAMPLE_PATH = f"{ADMIN_PREFIX}/tenants/{EXAMPLE_TENANT_ID}/sip-credentials"
_EXAMPLE_CREDENTIAL_PATH = f"{_EXAMPLE_PATH}/{examples.CREDENTIAL_NAME}"

CredentialName = Annotated[
    str, Path(description="The credential's name.", examples=[examples.CREDENTIAL_NAME], max_length=63, pattern=NO_NUL_PATTERN)
]


@router.get(
    "/tenants/{tenant_id}/sip-credentials",
    operation_id="list_sip_credentials",
    summary="List a tenant's SIP credentials",
    responses={
        200: {"content": json_example_references("sip_credentials")},
        **error_responses(TenantNotFound, *SLOT_LIMITED_READ_ERRORS, instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def list_sip_credentials(
    tenant_id: TenantIdDep, administration: TenantAdministrationDep, page: PageDep
) -> SipCredentialPage:
    """Lists the credentials by name, without user names and passwords."""
    listed = await administration.list_sip_credentials(tenant_id, after=page.after, limit=page.limit_with_lookahead)
    shown, next_cursor = page.page_and_next_cursor(listed, lambda row: row.name)
    return SipCredentialPage(sip_credentials=[SipCredentialRecord.from_row(row) for row in shown], next_cursor=next_cursor)


@router.post(
    "/tenants/{tenant_id}/sip-credentials",
    operation_id="create_sip_credential",
    summary="Create a SIP credential",
    status_code=201,
    response_model=SipCredentialRecord,
    response_description="The credential was created.",
    openapi_extra=json_request_body("NewSipCredential", examples.CREATION_BODIES),
    responses={
        **openapi_creation_responses(
            SipCredentialRecord, "sip_credential", unchanged_description="The tenant has this credential. Nothing was changed."
        ),
        **error_responses(TenantNotFound, AlreadyExists, *BODY_ERRORS, method="POST", instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="any")
async def create_sip_credential(
    tenant_id: TenantIdDep, administration: TenantAdministrationDep, body: JsonBody, response: Response
) -> SipCredentialRecord:
    """Stores a user name and a password, encrypted, under a name.

    A call that is created with this name in `sip_credential` uses them.

    If the same request is sent again, the answer is 200. With another user name or password, the answer is 409
    `already-exists`: a PUT to the credential replaces both.
    """
    new = parse_body(NewSipCredential, body)
    row, created = await administration.create_sip_credential(
        tenant_id, new.name, username=new.username.get_secret_value(), password=new.password.get_secret_value()
    )
    if not created:
        mark_response_as_replayed(response)
    return SipCredentialRecord.from_row(row)


@router.put(
    "/tenants/{tenant_id}/sip-credentials/{name}",
    operation_id="replace_sip_credential",
    summary="Replace user name and password of a SIP credential",
    response_description="User name and password are stored.",
    openapi_extra=json_request_body("NewSipAuth", examples.REPLACEMENT_BODIES),
    responses={
        200: {"content": json_example_references("sip_credential")},
        **error_responses(TenantNotFound, ResourceNotFound, *BODY_ERRORS, method="PUT", instance=_EXAMPLE_CREDENTIAL_PATH),
    },
)
@needs(Scope.ADMIN, clients="any")
async def replace_sip_credential(
    tenant_id: TenantIdDep, name: CredentialName, administration: TenantAdministrationDep, body: JsonBody
) -> SipCredentialRecord:
    """Replaces the user name and the password. Calls that are placed from now on use the new ones."""
    new = parse_body(NewSipAuth, body)
    row = await administration.replace_sip_credential(
        tenant_id, name, username=new.username.get_secret_value(), password=new.password.get_secret_value()
    )
    return SipCredentialRecord.from_row(row)


@router.delete(
    "/tenants/{tenant_id}/sip-credentials/{name}",
    operation_id="delete_sip_credential",
    summary="Delete a SIP credential",
    dependencies=[Depends(refuse_body)],
    status_code=204,
    response_description="The credential is deleted.",
    responses=error_responses(
        TenantNotFound,
        ResourceNotFound,
        *NO_BODY_ERRORS,
        *CHANGE_ERRORS,
        method="DELETE",
        instance=_EXAMPLE_CREDENTIAL_PATH,
    ),
)
@needs(Scope.ADMIN, clients="any")
async def delete_sip_credential(tenant_id: TenantIdDep, name: CredentialName, administration: TenantAdministrationDep) -> None:
    """Deletes the credential. From now on, calls cannot be created with its name. Records of calls keep the name."""
    await administration.delete_sip_credential(tenant_id, name)
