"""The page *Now*, the part of it that refreshes itself, and the figures of its plots."""

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import Depends, Query, Request, Response
from starlette.responses import JSONResponse

from app.console.access import ConsoleClientDep, console_router, slot_limited_transactions
from app.console.now import figures
from app.console.now.figure_store import read_figures
from app.console.now.store import read_now_page_facts
from app.console.now.view import NowView, now_view
from app.console.rendering import page_response
from app.console.tenancy import require_accessible_tenant
from app.http.routes import needs
from app.tenants.caller import OperatorCaller
from app.tenants.scopes import Scope
from app.workloads.authentication import WorkloadTokenValidator

router = console_router("/now")

RangeName = Literal["1h", "24h", "7d"]
RangeNameDep = Annotated[RangeName, Query(alias="range")]


async def shown_tenant_id(client: ConsoleClientDep, tenant: str = "") -> str | None:
    """Returns the id of the tenant whose calls are shown: `tenant` from the URL or, without it, the tenant of the session.

    Returns None, which means all tenants, if an operator names no tenant. Raises TenantNotFound if the client may not see
    `tenant`, or if it is no valid id.
    """
    return require_accessible_tenant(client, tenant) if tenant else client.tenant_id


ShownTenantDep = Annotated[str | None, Depends(shown_tenant_id)]


@router.get("")
@needs(Scope.READ, clients="any")
async def show_now(
    request: Request, client: ConsoleClientDep, tenant_id: ShownTenantDep, range_name: RangeNameDep = "1h"
) -> Response:
    """Shows the page *Now*: a sentence about the calls of the last hour, what needs attention, and plots with their table."""
    view, shown = await _read_now_view(request, client, tenant_id), figures.PLOT_TIME_RANGES[range_name]
    read = await read_figures(slot_limited_transactions(request), tenant_id, span=shown.span)
    found = figures.sum_figures_per_period(read, span=shown.span, length=shown.point)
    return page_response(
        request,
        "now/page.html",
        view=view,
        tenant=tenant_id if client.tenant_id is None and tenant_id else "",
        ranges=figures.PLOT_TIME_RANGES,
        range_name=range_name,
        plots=figures.make_plots(found),
        has_figures=bool(read.figures),
        columns=figures.TABLE_COLUMNS,
        rows=figures.figure_table_rows(figures.sum_figures_per_period(read, span=shown.span, length=shown.row)),
    )


@router.get("/summary")
@needs(Scope.READ, clients="any")
async def show_now_summary(request: Request, client: ConsoleClientDep, tenant_id: ShownTenantDep) -> Response:
    """Returns the HTML of the sentence and the list on the page *Now*. The page loads both again every ten seconds."""
    tenant = tenant_id if client.tenant_id is None and tenant_id else ""
    return page_response(request, "now/summary.html", view=await _read_now_view(request, client, tenant_id), tenant=tenant)


@router.get("/figures")
@needs(Scope.READ, clients="any")
async def get_figures(request: Request, tenant_id: ShownTenantDep, range_name: RangeNameDep = "1h") -> Response:
    """Returns the plots as JSON for the page's script."""
    shown = figures.PLOT_TIME_RANGES[range_name]
    read = await read_figures(slot_limited_transactions(request), tenant_id, span=shown.span)
    found = figures.sum_figures_per_period(read, span=shown.span, length=shown.point)
    return JSONResponse(figures.plots_as_json(found, length=shown.point))


async def _read_now_view(request: Request, client: ConsoleClientDep, tenant_id: str | None) -> NowView:
    facts = await read_now_page_facts(
        slot_limited_transactions(request), tenant_id, has_public_url=request.state.has_public_url
    )
    tokens: WorkloadTokenValidator | None = request.state.workload_tokens
    is_operator = isinstance(client, OperatorCaller)
    key_set_state = "ok" if tokens is None else tokens.key_set_state
    resolve_period: timedelta = request.state.resolve_period
    return now_view(facts, for_operator=is_operator, resolve_period=resolve_period, key_set_state=key_set_state)
