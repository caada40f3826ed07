"""Routes of a tenant's API keys."""

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
from app.admin.keys import examples
from app.admin.keys.schemas import CreatedKey, KeyPage, KeyRecord, NewKey
from app.admin.pages import PageDep
from app.errors import IdempotencyKeyReused, ResourceNotFound, TenantNotFound
from app.http.authentication import ClientDep
from app.http.bodies import NO_BODY_ERRORS, JsonBody, refuse_body
from app.http.idempotency_key import IdempotencyKeyDep, idempotency_key_header
from app.http.limits import NO_NUL_PATTERN
from app.http.openapi import json_example_references, json_request_body
from app.http.operations import ADMIN_PREFIX
from app.http.problems import error_responses
from app.http.routes import needs
from app.tenants.scopes import Scope

router = admin_router()

_EXAMPLE_PATH = f"{ADMIN_PREFIX}/tenants/{EXAMPLE_TENANT_ID}/keys"
_IDEMPOTENCY_KEY_DESCRIPTION = (
    "Names one creation within the tenant. A request that is repeated with it creates no second key and does not show the key."
)


async def document_idempotency_header(
    _: Annotated[str | None, idempotency_key_header(_IDEMPOTENCY_KEY_DESCRIPTION, examples=["dialler-2027"])] = None,
) -> None:
    """Adds the header `Idempotency-Key` to the OpenAPI document, and does nothing else.

    IdempotencyKeyDep reads the header from a request, but does not appear in the document.
    """


@router.get(
    "/tenants/{tenant_id}/keys",
    operation_id="list_keys",
    summary="List a tenant's API keys",
    responses={
        200: {"content": json_example_references("keys")},
        **error_responses(TenantNotFound, *SLOT_LIMITED_READ_ERRORS, instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def list_keys(tenant_id: TenantIdDep, administration: TenantAdministrationDep, page: PageDep) -> KeyPage:
    """Lists the tenant's keys, oldest first, with the revoked and expired ones. The keys themselves cannot be shown again."""
    listed = await administration.list_keys(tenant_id, after=page.after_id, limit=page.limit_with_lookahead)
    shown, next_cursor = page.page_and_next_cursor(listed, lambda row: row.id)
    return KeyPage(keys=[KeyRecord.from_row(row) for row in shown], next_cursor=next_cursor)


@router.post(
    "/tenants/{tenant_id}/keys",
    operation_id="create_key",
    summary="Create an API key",
    dependencies=[Depends(document_idempotency_header)],
    status_code=201,
    response_model=CreatedKey,
    response_description="The key was created. No other answer shows it.",
    openapi_extra=json_request_body("NewKey", examples.CREATION_BODIES),
    responses={
        **openapi_creation_responses(
            CreatedKey,
            "created_key",
            unchanged_description="An earlier request with this Idempotency-Key created the key; `key` is null.",
            repeated_example="key_created_before",
        ),
        **error_responses(TenantNotFound, IdempotencyKeyReused, *BODY_ERRORS, method="POST", instance=_EXAMPLE_PATH),
    },
)
@needs(Scope.ADMIN, clients="any")
async def create_key(
    client: ClientDep,
    tenant_id: TenantIdDep,
    administration: TenantAdministrationDep,
    idempotency_key: IdempotencyKeyDep,
    body: JsonBody,
    response: Response,
) -> CreatedKey:
    """Creates a key for the tenant's services. Only the answer to this request shows the key.

    If the answer was lost, repeat the request with the same `Idempotency-Key`. If the first request created the key, the answer
    is 200 with the id and without the key: revoke the key and create another one.
    """
    new = parse_body(NewKey, body)
    row, key = await administration.create_key_idempotently(
        tenant_id,
        name=new.name,
        creator=client,
        scopes=new.scopes,
        expires_at=new.expires_at,
        key_format=new.format,
        idempotency_key=idempotency_key,
    )
    response.headers["Cache-Control"] = "no-store"
    if key is None:
        mark_response_as_replayed(response)
    return CreatedKey.from_row_and_key(row, key)


@router.delete(
    "/tenants/{tenant_id}/keys/{key_id}",
    operation_id="revoke_key",
    summary="Revoke an API key",
    dependencies=[Depends(refuse_body)],
    status_code=204,
    response_description="The key is revoked.",
    responses=error_responses(
        TenantNotFound,
        ResourceNotFound,
        *NO_BODY_ERRORS,
        *CHANGE_ERRORS,
        method="DELETE",
        instance=f"{_EXAMPLE_PATH}/{examples.KEY['id']}",
    ),
)
@needs(Scope.ADMIN, clients="any")
async def revoke_key(
    tenant_id: TenantIdDep,
    key_id: Annotated[
        str, Path(description="The key's id.", examples=[examples.KEY["id"]], max_length=64, pattern=NO_NUL_PATTERN)
    ],
    administration: TenantAdministrationDep,
) -> None:
    """Revokes the key, so that it is refused from now on. If the same request is sent again, the answer is the same."""
    await administration.revoke_key(key_id, tenant_id=tenant_id)
