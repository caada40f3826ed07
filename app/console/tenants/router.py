"""The pages of tenants, and the forms that create and suspend them. Forms for accounts and keys are in `actions`."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, Request, Response
from starlette.responses import RedirectResponse

from app.admin.access import parse_body
from app.admin.tenants.schemas import NewTenant
from app.console.access import ConsoleActorDep, ConsoleClientDep, SubmittedFormDep, console_router, slot_limited_transactions
from app.console.rendering import page_response
from app.console.tenancy import require_accessible_tenant, require_read_scope
from app.console.tenants import store
from app.console.tenants.forms import TENANT_FIELDS, FormState, filled_fields, refused_form
from app.console.tenants.view import TENANTS_PATH, TenantView, tenant_path, tenant_state
from app.errors import CallgateError, TenantNotFound
from app.http.routes import needs
from app.security.keyring import Keyring
from app.tenants.administration import TenantAdministration
from app.tenants.errors import AdministrationError
from app.tenants.scopes import Scope

router = console_router("/tenants")


async def require_visible_tenant(client: ConsoleClientDep, tenant_id: str) -> str:
    """Returns the tenant's id from the path. Raises TenantNotFound if the session belongs to another tenant."""
    return require_accessible_tenant(client, tenant_id)


VisibleTenantDep = Annotated[str, Depends(require_visible_tenant)]


async def console_administration(request: Request, client: ConsoleClientDep, actor: ConsoleActorDep) -> TenantAdministration:
    """Returns the service that changes tenants. Raises ScopeRequired if the client lacks the scope `read`.

    A form needs this scope because, if the form is refused, the response is a page that shows the tenant.
    """
    require_read_scope(client)
    keyring: Keyring = request.state.keyring
    return TenantAdministration(slot_limited_transactions(request), keyring, actor)


AdministrationDep = Annotated[TenantAdministration, Depends(console_administration)]


@router.get("")
@needs(Scope.READ, clients="any")
async def list_tenants(request: Request, client: ConsoleClientDep, after: str = "") -> Response:
    """Lists tenants by id. Redirects a tenant's session to the page of its own tenant."""
    if client.tenant_id is not None:
        return RedirectResponse(tenant_path(client.tenant_id), status_code=303)
    return await _show_list(request, FormState(), after=after.replace("\x00", ""))


async def _show_list(request: Request, form: FormState, *, after: str = "") -> Response:
    rows, has_more = await store.list_tenant_rows(slot_limited_transactions(request), after=after)
    return page_response(
        request,
        "tenants/list.html",
        status=form.status,
        tenants=[(row, tenant_state(row), tenant_path(row.id)) for row in rows],
        next_after=rows[-1].id if has_more else None,
        is_first=not after,
        form=form,
    )


@router.post("")
@needs(Scope.ADMIN, clients="operator")
async def create_tenant(request: Request, tenants: AdministrationDep, form: SubmittedFormDep) -> Response:
    try:
        new = parse_body(NewTenant, filled_fields(form, TENANT_FIELDS))
        tenant, _ = await tenants.ensure_tenant(new.id, new.settings)
    except (CallgateError, AdministrationError) as error:
        return await _show_list(request, refused_form(form, TENANT_FIELDS, error))
    return RedirectResponse(tenant_path(tenant.id), status_code=303)


@router.get("/{tenant_id}")
@needs(Scope.READ, clients="any")
async def show_tenant(request: Request, tenant_id: VisibleTenantDep) -> Response:
    return await render_tenant(request, tenant_id)


async def render_tenant(
    request: Request,
    tenant_id: str,
    *,
    account: FormState | None = None,
    credential: tuple[str, FormState] | None = None,
    key: FormState | None = None,
) -> Response:
    """Renders the page of a tenant. `account`, `credential` and `key` are refused forms, which the page shows unfolded.

    The page has a form for a new credential at each account, so `credential` is a pair: the SID of the account, and the form.
    Raises TenantNotFound if the tenant does not exist.
    """
    details = await store.find_tenant_details(slot_limited_transactions(request), tenant_id)
    if details is None:
        raise TenantNotFound
    account_sid, of_credential = credential or ("", FormState())
    forms = (account or FormState(), of_credential, key or FormState())
    return page_response(
        request,
        "tenants/tenant.html",
        status=next((form.status for form in forms if form.is_refused), 200),
        view=TenantView.from_details(details, datetime.now(UTC)),
        account_form=forms[0],
        credential_form=forms[1],
        credential_account=account_sid,
        blank_form=FormState(),
        key_form=forms[2],
        scopes=[scope.value for scope in Scope],
        once=str(uuid4()),
    )


@router.post("/{tenant_id}/suspend")
@needs(Scope.ADMIN, clients="operator")
async def suspend_tenant(tenant_id: VisibleTenantDep, tenants: AdministrationDep) -> Response:
    """Suspends the tenant: its requests to create calls are refused, and its scheduled calls are not dialled.

    Its records stay readable.
    """
    await tenants.set_tenant_suspended(tenant_id, suspended=True)
    return RedirectResponse(f"{TENANTS_PATH}/{tenant_id}", status_code=303)


@router.post("/{tenant_id}/resume")
@needs(Scope.ADMIN, clients="operator")
async def resume_tenant(tenant_id: VisibleTenantDep, tenants: AdministrationDep) -> Response:
    await tenants.set_tenant_suspended(tenant_id, suspended=False)
    return RedirectResponse(f"{TENANTS_PATH}/{tenant_id}", status_code=303)
