"""Routes of tenants."""

import re
from typing import Annotated

from fastapi import Depends, Header, Request, Response

from app.admin.access import (
    BODY_ERRORS,
    EXAMPLE_TENANT_ID,
    SLOT_LIMITED_READ_ERRORS,
    TenantAdministrationDep,
    TenantIdDep,
    admin_router,
    mark_response_as_replayed,
    parse_body,
    require_operator,
)
from app.admin.pages import PageDep
from app.admin.problems import NOTHING_CHANGED_DETAIL
from app.admin.tenants import examples
from app.admin.tenants.schemas import NewTenant, TenantChange, TenantPage, TenantRecord
from app.calls.status_callbacks import UrlValidator
from app.errors import (
    AlreadyExists,
    FieldError,
    InvalidRequest,
    OperatorKeyRequired,
    PreconditionFailed,
    ScopeRequired,
    TenantNotFound,
)
from app.http.authentication import ClientDep
from app.http.bodies import JsonBody
from app.http.idempotency_key import REPLAYED_HEADER
from app.http.openapi import header_references, json_example_references, json_request_body
from app.http.operations import ADMIN_PREFIX
from app.http.problems import error_responses
from app.http.routes import needs
from app.scheduling.hours import CallingHoursInvalid
from app.tenants.administration_store import TenantRow, TenantSettings
from app.tenants.caller import Caller
from app.tenants.scopes import Scope

router = admin_router()

_TENANTS_PATH = f"{ADMIN_PREFIX}/tenants"
_EXAMPLE_TENANT_PATH = f"{_TENANTS_PATH}/{EXAMPLE_TENANT_ID}"
_OPERATOR_ONLY_SETTINGS = ("suspended", "max_in_flight")
_CALLBACK_SETTINGS = ("status_callback", "status_callback_method", "status_callback_events", "callback_format")
_ETAG_PATTERN = re.compile(r'\s*(?:(W/)?"([^"]*)")\s*')


async def callback_url_validator(request: Request) -> UrlValidator:
    validate: UrlValidator = request.state.validate_callback
    return validate


UrlValidatorDep = Annotated[UrlValidator, Depends(callback_url_validator)]


async def if_match_etags(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description="The `ETag` with which the tenant was read. If the tenant has changed since then, the answer is 412 "
            "and nothing is changed. Without this header, the change is made in any case.",
            examples=['"6f1ed002ab5595859014ebf0951522d9"'],
        ),
    ] = None,
) -> frozenset[str] | None:
    """Returns the ETags in the header `If-Match`, or None if the header is missing or `*`.

    A change is made only if the tenant has one of these ETags. Weak ETags are left out, because they never match (RFC 9110
    §13.1.1). Raises InvalidRequest for a malformed header.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    tags = [_ETAG_PATTERN.fullmatch(tag) for tag in if_match.split(",")]
    if not all(tags):
        fault = FieldError("If-Match", "invalid_etag", 'must be * or ETags in double quotes, such as "6f1ed002ab559585"')
        raise InvalidRequest(field_errors=(fault,))
    return frozenset(tag[2] for tag in tags if tag and not tag[1])


@router.get(
    "/tenants",
    operation_id="list_tenants",
    summary="List tenants",
    responses={
        200: {"content": json_example_references("tenants")},
        **error_responses(*SLOT_LIMITED_READ_ERRORS, instance=_TENANTS_PATH),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def list_tenants(client: ClientDep, administration: TenantAdministrationDep, page: PageDep) -> TenantPage:
    """Lists tenants in the order of their ids. A tenant's own key lists its own tenant only."""
    if isinstance(client, Caller):
        own = await administration.get_tenant(client.tenant_id)
        return TenantPage(tenants=[TenantRecord.from_row(own)], next_cursor=None)
    rows, next_cursor = page.page_and_next_cursor(
        await administration.list_tenants(after=page.after, limit=page.limit_with_lookahead), lambda row: row.id
    )
    return TenantPage(tenants=[TenantRecord.from_row(row) for row in rows], next_cursor=next_cursor)


@router.post(
    "/tenants",
    operation_id="create_tenant",
    summary="Create a tenant",
    status_code=201,
    response_model=TenantRecord,
    response_description="The tenant was created.",
    openapi_extra=json_request_body("NewTenant", examples.CREATION_BODIES),
    responses={
        200: {
            "model": TenantRecord,
            "description": "The tenant exists as it was to be created. Nothing was changed.",
            "headers": header_references("Location", REPLAYED_HEADER, "ETag"),
            "content": json_example_references("tenant"),
        },
        201: {"headers": header_references("Location", "ETag"), "content": json_example_references("tenant")},
        **error_responses(AlreadyExists, *BODY_ERRORS, method="POST", instance=_TENANTS_PATH),
    },
)
@needs(Scope.ADMIN, clients="operator")
async def create_tenant(
    administration: TenantAdministrationDep, validate_url: UrlValidatorDep, body: JsonBody, response: Response
) -> TenantRecord:
    """Creates a tenant under an id of your choice. It can place calls once it has an account and an API key.

    If the same request is sent again, the answer is 200 with the tenant as it is. If the tenant exists and differs in a member
    of the request, the answer is 409 `already-exists`. The request needs no Idempotency-Key.
    """
    new = parse_body(NewTenant, body)
    settings = _validate_tenant_settings(new, validate_url)
    tenant, created = await administration.ensure_tenant(new.id, settings)
    response.headers["Location"] = f"{_TENANTS_PATH}/{tenant.id}"
    if not created:
        mark_response_as_replayed(response)
    return _set_etag_and_build_record(tenant, response)


@router.get(
    "/tenants/{tenant_id}",
    operation_id="get_tenant",
    summary="Get a tenant",
    responses={
        200: {"headers": header_references("ETag"), "content": json_example_references("tenant")},
        **error_responses(TenantNotFound, *SLOT_LIMITED_READ_ERRORS, instance=_EXAMPLE_TENANT_PATH),
    },
)
@needs(Scope.ADMIN, clients="any", operator_scope=Scope.READ)
async def get_tenant(tenant_id: TenantIdDep, administration: TenantAdministrationDep, response: Response) -> TenantRecord:
    """Returns the tenant. Send its `ETag` as `If-Match` to make a change conditional."""
    return _set_etag_and_build_record(await administration.get_tenant(tenant_id), response)


@router.patch(
    "/tenants/{tenant_id}",
    operation_id="update_tenant",
    summary="Change a tenant",
    response_model=TenantRecord,
    openapi_extra=json_request_body("TenantChange", examples.CHANGE_BODIES),
    responses={
        200: {"headers": header_references("ETag"), "content": json_example_references("tenant")},
        **error_responses(
            OperatorKeyRequired,
            TenantNotFound,
            PreconditionFailed,
            *BODY_ERRORS,
            method="PATCH",
            instance=_EXAMPLE_TENANT_PATH,
        ),
    },
)
@needs(Scope.ADMIN, clients="any")
async def update_tenant(
    client: ClientDep,
    tenant_id: TenantIdDep,
    administration: TenantAdministrationDep,
    validate_url: UrlValidatorDep,
    versions: Annotated[frozenset[str] | None, Depends(if_match_etags)],
    body: JsonBody,
    response: Response,
) -> TenantRecord:
    """Changes the members that the body has. Members that are missing stay as they are, and null removes a value.

    Only an operator's key may change `suspended` and `limits`. A tenant's own key needs the scope `read`, too, to change
    `callbacks`, because callbacks show new calls to their receiver.
    """
    changes = _validate_tenant_settings(parse_body(TenantChange, body), validate_url)
    if changes.keys() & _OPERATOR_ONLY_SETTINGS:
        require_operator(client, "change `suspended` and `limits`")
    if changes.keys() & _CALLBACK_SETTINGS and isinstance(client, Caller) and Scope.READ not in client.scopes:
        raise ScopeRequired("Only a key that also has the scope `read` can change `callbacks`.", scope=Scope.READ)
    return _set_etag_and_build_record(
        await administration.update_tenant(tenant_id, changes, expected_versions=versions), response
    )


def _set_etag_and_build_record(tenant: TenantRow, response: Response) -> TenantRecord:
    """Sets the header `ETag` of the response, and returns the response body."""
    response.headers["ETag"] = f'"{tenant.version}"'
    return TenantRecord.from_row(tenant)


def _validate_tenant_settings(body: NewTenant | TenantChange, validate_url: UrlValidator) -> TenantSettings:
    try:
        settings = body.settings
    except CallingHoursInvalid as error:
        raise InvalidRequest(NOTHING_CHANGED_DETAIL, field_errors=error.field_errors) from None
    url = settings.get("status_callback")
    if url is not None and (fault := validate_url(url)):
        raise InvalidRequest(field_errors=(FieldError("/callbacks/url", *fault),))
    return settings
