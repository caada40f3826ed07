"""Serves the documentation pages: /docs, /redoc and the guides. No page loads anything from another host."""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.errors import RouteNotFound
from app.http.guides import render_guide
from app.http.routes import ScopedRoute, public

router = APIRouter(include_in_schema=False, route_class=ScopedRoute)

_LOGO_URL = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_EMPTY_IMAGE_URL = b"data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E"


@router.get("/")
@public
async def root() -> Response:
    """Redirects to /docs."""
    return RedirectResponse("/docs")


@router.get("/docs")
@public
def docs() -> Response:
    return _page_response("docs.html")


@router.get("/redoc")
@public
def redoc() -> Response:
    return _page_response("redoc.html")


@router.get("/redoc.standalone.js")
@public
def redoc_script() -> Response:
    """Serves ReDoc's script without the vendor's logo, which the script would load from a CDN."""
    return Response(_redoc_script(), media_type="text/javascript")


@router.get("/docs/{name}")
@public
def guide(name: str) -> Response:
    page = render_guide(name)
    if page is None:
        raise RouteNotFound
    return HTMLResponse(page)


@cache
def _redoc_script() -> bytes:
    return files("fastapi_offline").joinpath("static/redoc.standalone.js").read_bytes().replace(_LOGO_URL, _EMPTY_IMAGE_URL)


def _page_response(name: str) -> Response:
    return HTMLResponse(files("app.http").joinpath("pages", name).read_bytes())
