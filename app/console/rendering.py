"""Renders the console's templates. Jinja2 escapes every value that is not marked as HTML."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.responses import HTMLResponse

from app.console.assets import assets
from app.console.filters import FILTERS
from app.console.headers import add_security_headers
from app.console.navigation import NAVIGATION, SESSION_LINK
from app.console.sessions.service import ActiveSession
from app.tenants.caller import OperatorCaller
from app.tenants.scopes import Scope

if TYPE_CHECKING:
    from jinja2 import Environment


def page_response(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Renders the template with the context, and returns the response: a page or a part of one."""
    return render_response(template, status, request.url.path, request.scope["state"], context)


def render_response(
    template: str, status: int, path: str, state: Mapping[str, Any], context: Mapping[str, Any]
) -> HTMLResponse:
    """Renders the template, and returns the response to a request with this path and this ASGI state (`scope["state"]`).

    The template gets the `context` and also these: `client`, who is logged in (None without a session); `is_operator`, whether
    this is an operator; `may_act`, whether the client has the scope `admin`; `path`; and `navigation`, the links to show.
    """
    session: ActiveSession | None = state.get("console_session")
    client = session.client if session else None
    scopes = client.scopes if client else frozenset()
    is_operator = isinstance(client, OperatorCaller)
    shared = {
        "client": client,
        "is_operator": is_operator,
        "may_act": Scope.ADMIN in scopes,
        "path": path,
        "navigation": [link for link in NAVIGATION if Scope.READ in scopes and (is_operator or not link.for_operators)],
    }
    content = _jinja_environment().get_template(template).render({**shared, **context})
    return add_security_headers(HTMLResponse(content, status_code=status))


@cache
def _jinja_environment() -> "Environment":
    # Imported with the first page: the import takes 0.07 s of CPU, and most processes never render a page.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("app.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= FILTERS
    environment.globals |= {"static": _static_path, "session_page": SESSION_LINK}
    return environment


def _static_path(name: str) -> str:
    return assets()[name].path
