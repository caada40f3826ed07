"""Renders the console's templates. Jinja2 escapes every value that is not marked as HTML."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from app.console.assets import assets
from app.console.filters import FILTERS
from app.console.headers import protect_page
from app.console.navigation import NAVIGATION, SESSION, first_page
from app.tenants.caller import OperatorCaller


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Returns the page, or the fragment of a page, that the template makes of the context.

    Templates also get `client` (None without a session), `path` and `navigation`.
    """
    session = getattr(request.state, "console_session", None)
    client = session.client if session else None
    is_operator = isinstance(client, OperatorCaller)
    navigation = [link for link in NAVIGATION if client and (is_operator or not link.for_operators)]
    shared = {"client": client, "is_operator": is_operator, "path": request.url.path, "navigation": navigation}
    return render(template, status, shared | context)


def render(template: str, status: int, context: Mapping[str, Any]) -> HTMLResponse:
    return protect_page(HTMLResponse(_environment().get_template(template).render(context), status_code=status))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("app.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= FILTERS
    environment.globals |= {"static": _static_path, "session_page": SESSION, "first_page": first_page()}
    return environment


def _static_path(name: str) -> str:
    return assets()[name].path
