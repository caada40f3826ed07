"""The forms of a tenant's accounts, credentials and API keys. A new key is shown only in the response to its form."""

from uuid import UUID

from fastapi import Request, Response
from starlette.responses import RedirectResponse

from app.admin.access import parse_body
from app.admin.accounts.router import require_allowed_base_url
from app.admin.accounts.schemas import NewAccount, NewCredential
from app.admin.keys.schemas import NewKey
from app.console.access import ConsoleClientDep, SubmittedFormDep, console_router
from app.console.rendering import page_response
from app.console.tenants.forms import (
    ACCOUNT_FIELDS,
    CREDENTIAL_FIELDS,
    KEY_FIELDS,
    filled_fields,
    idempotency_key_of,
    new_api_key_body,
    refused_form,
)
from app.console.tenants.router import AdministrationDep, VisibleTenantDep, render_tenant
from app.console.tenants.view import tenant_path
from app.errors import CallgateError, ResourceNotFound
from app.http.routes import needs
from app.tenants.errors import AdministrationError
from app.tenants.scopes import Scope

router = console_router("/tenants/{tenant_id}")


@router.get("/accounts")
@router.get("/accounts/{account_sid}/credentials")
@router.get("/keys")
@needs(Scope.READ, clients="any")
async def redirect_to_tenant(tenant_id: VisibleTenantDep) -> Response:
    """Redirects to the page of the tenant. Answers a GET of a URL to which a form on this page is sent."""
    return _redirect_to_tenant(tenant_id)


@router.post("/accounts")
@needs(Scope.ADMIN, clients="any")
async def create_account(
    request: Request, client: ConsoleClientDep, tenant_id: VisibleTenantDep, tenants: AdministrationDep, form: SubmittedFormDep
) -> Response:
    """Adds an account with its first credential. The secret is stored encrypted and never shown."""
    try:
        new = parse_body(NewAccount, filled_fields(form, ACCOUNT_FIELDS))
        require_allowed_base_url(client, new)
        await tenants.create_account(
            tenant_id,
            account_sid=new.account_sid,
            secret=new.plain_secret,
            key_sid=new.key_sid or None,
            base_url=new.base_url,
        )
    except (CallgateError, AdministrationError) as error:
        return await render_tenant(request, tenant_id, account=refused_form(form, ACCOUNT_FIELDS, error))
    return _redirect_to_tenant(tenant_id)


@router.post("/accounts/{account_sid}/credentials")
@needs(Scope.ADMIN, clients="any")
async def create_credential(
    request: Request, tenant_id: VisibleTenantDep, account_sid: str, tenants: AdministrationDep, form: SubmittedFormDep
) -> Response:
    """Adds a credential to the account. Callgate tries it after the other credentials that Twilio has not rejected."""
    try:
        new = parse_body(NewCredential, filled_fields(form, CREDENTIAL_FIELDS))
        await tenants.create_credential(
            tenant_id, account_sid=account_sid, secret=new.plain_secret, key_sid=new.key_sid or None
        )
    except (CallgateError, AdministrationError) as error:
        state = refused_form(form, CREDENTIAL_FIELDS, error)
        return await render_tenant(request, tenant_id, credential=(account_sid, state))
    return _redirect_to_tenant(tenant_id)


@router.post("/credentials/{credential_id}/revoke")
@needs(Scope.ADMIN, clients="any")
async def revoke_credential(tenant_id: VisibleTenantDep, credential_id: str, tenants: AdministrationDep) -> Response:
    """Revokes the credential: it is never used again. Callbacks that are signed with it are refused."""
    try:
        wanted = UUID(credential_id)
    except ValueError:
        raise ResourceNotFound("This tenant has no credential with this id.") from None
    await tenants.revoke_credential(tenant_id, wanted)
    return _redirect_to_tenant(tenant_id)


@router.post("/keys")
@needs(Scope.ADMIN, clients="any")
async def create_key(
    request: Request, client: ConsoleClientDep, tenant_id: VisibleTenantDep, tenants: AdministrationDep, form: SubmittedFormDep
) -> Response:
    """Creates a key and shows it once. Sending the same form again, as a reload does, creates no second key."""
    try:
        new = parse_body(NewKey, new_api_key_body(form))
        row, key = await tenants.create_key_idempotently(
            tenant_id,
            name=new.name,
            creator=client,
            scopes=new.scopes,
            expires_at=new.expires_at,
            key_format=new.format,
            idempotency_key=idempotency_key_of(form),
        )
    except (CallgateError, AdministrationError) as error:
        return await render_tenant(request, tenant_id, key=refused_form(form, KEY_FIELDS, error))
    return page_response(request, "tenants/key.html", row=row, key=key, tenant_path=tenant_path(tenant_id))


@router.post("/keys/{key_id}/revoke")
@needs(Scope.ADMIN, clients="any")
async def revoke_key(tenant_id: VisibleTenantDep, key_id: str, tenants: AdministrationDep) -> Response:
    """Revokes the key, so that it is refused from now on."""
    await tenants.revoke_key(key_id.replace("\x00", ""), tenant_id=tenant_id)
    return _redirect_to_tenant(tenant_id)


def _redirect_to_tenant(tenant_id: str) -> Response:
    return RedirectResponse(tenant_path(tenant_id), status_code=303)
