"""All routes of the console: the redirect to the first page, the scripts and styles, all pages, and any unknown path."""

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from app.console.access import console_router
from app.console.assets import assets
from app.console.audit import router as audit_router
from app.console.calls import router as calls_router
from app.console.deliveries import router as deliveries_router
from app.console.navigation import home_path
from app.console.now import router as now_router
from app.console.oidc import router as oidc_router
from app.console.queues import router as queues_router
from app.console.sessions import router as sessions_router
from app.console.sip import router as sip_router
from app.console.tenants import router as tenants_router
from app.console.tenants.actions import router as tenant_actions_router
from app.errors import RouteNotFound
from app.http.routes import needs, public
from app.tenants.scopes import Scope

_IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"

router = console_router()
unknown_page_router = console_router()


@router.get("")
@needs(Scope.READ, clients="any")
async def redirect_to_home() -> Response:
    """Redirects from `/console` to the console's start page."""
    return RedirectResponse(home_path(), status_code=303)


@router.get("/static/{digest}/{asset}")
@public
async def serve_asset(request: Request, digest: str, asset: str) -> Response:
    """Serves a script, a style or the icon.

    During a rollout, a browser may request a file of one version from a process of another version. The process answers with
    its own file and `no-store`.
    """
    found = assets().get(asset)
    if found is None:
        raise RouteNotFound
    headers = {"Cache-Control": _IMMUTABLE_CACHE_CONTROL if digest == found.digest else "no-store", "Vary": "Accept-Encoding"}
    content = found.content
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        content = found.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=found.media_type, headers=headers)


@unknown_page_router.get("/{path:path}")
@needs(Scope.READ, clients="any")
async def raise_not_found() -> Response:
    """Raises RouteNotFound for an unknown path. The route needs a session, so the error page shows the session's navigation."""
    raise RouteNotFound


ROUTERS: tuple[APIRouter, ...] = (
    router,
    sessions_router.router,
    now_router.router,
    calls_router.router,
    queues_router.router,
    deliveries_router.router,
    oidc_router.router,
    tenants_router.router,
    tenant_actions_router.router,
    audit_router.router,
    sip_router.router,
    unknown_page_router,
)
