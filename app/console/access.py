"""What all routes of the console share: authentication with a session, the check of `Origin`, and the reading of forms.

    router = console_router("/things")

    @router.get("")
    @needs(Scope.READ, clients="any")
    async def list_things(request: Request, client: ConsoleClientDep) -> Response:
        return page_response(request, "things/list.html", things=await …(tenant_id=client.tenant_id))

Without a session, a GET is redirected to the login and a POST is refused. If `client.tenant_id` is not None, the response may
show this tenant only. It is None for an operator, who may see all tenants. docs/console.md describes sessions.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import unquote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import RedirectResponse

from app.admin.problems import api_error_for_administration_error
from app.audit.events import Actor
from app.console.headers import add_security_headers
from app.console.rendering import page_response
from app.console.sessions.service import ActiveSession, ConsoleSessions
from app.errors import OriginRefused, TenantSuspended, Unauthorized
from app.http.concurrency import SlotLimitedTransactions
from app.http.form import ParameterValues, read_form_body
from app.http.operations import CONSOLE_PREFIX
from app.http.routes import Endpoint, ScopedRoute
from app.observability.context import bind_log_fields
from app.tenants.access import authorize
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.errors import AdministrationError

SESSION_COOKIE_NAME = "__Host-callgate-console"
LOGIN_PATH = f"{CONSOLE_PREFIX}/login"
_SAFE_METHODS = ("GET", "HEAD")
_ALLOWED_WHILE_SUSPENDED = "allowed_while_suspended"
_SUSPENDED_TEXT = (
    "An operator has suspended this tenant. It can see its records, end calls and send deliveries again, and nothing else."
)


async def current_session(request: Request) -> ActiveSession | None:
    """Returns the session of the request's cookie.

    Returns None if the request has no such cookie, or if the session does not exist or has ended.
    """
    sessions: ConsoleSessions = request.state.console_sessions
    token = request.cookies.get(SESSION_COOKIE_NAME)
    return await sessions.find(token, is_user_activity=not _is_automatic_page_refresh(request)) if token else None


async def authenticate_session(request: Request) -> Caller | OperatorCaller:
    """Returns the client of the request's session: a Caller if a tenant's client has logged in, an OperatorCaller otherwise.

    Raises Unauthorized without a session. Raises ScopeRequired if the client lacks the route's scope. Raises TenantKeyRequired
    if the route is for tenants only, and OperatorKeyRequired if it is for operators only. Raises TenantSuspended if the request
    sends a form, the tenant is suspended, and the endpoint does not have the decorator `allowed_while_suspended`.
    """
    session = await current_session(request)
    if session is None:
        raise Unauthorized("Your session has ended. Log in again.")
    client = session.client
    bind_log_fields(tenant_id=client.tenant_id, key_id=str(client.key_id))
    request.state.console_session = session
    authorize(client, request.scope["route"].access)
    is_suspended = isinstance(client, Caller) and client.suspended
    if is_suspended and request.method not in _SAFE_METHODS and not _is_allowed_while_suspended(request):
        raise TenantSuspended(_SUSPENDED_TEXT)
    return client


def allowed_while_suspended(endpoint: Endpoint) -> Endpoint:
    """Marks the endpoint of a form, so that a suspended tenant may send the form, too. Returns the same endpoint (a decorator).

    Use it only for actions that a suspended tenant may also take with an API key under /v1.
    """
    setattr(endpoint, _ALLOWED_WHILE_SUSPENDED, True)
    return endpoint


def _is_allowed_while_suspended(request: Request) -> bool:
    return getattr(request.scope["route"].endpoint, _ALLOWED_WHILE_SUSPENDED, False)


ConsoleClientDep = Annotated[Caller | OperatorCaller, Depends(authenticate_session)]


async def audit_actor(request: Request, client: ConsoleClientDep) -> Actor:
    """Returns the person who is logged in, as the actor that the audit log records."""
    return Actor(client.kind, client.name, request.state.request_id)


ConsoleActorDep = Annotated[Actor, Depends(audit_actor)]


def slot_limited_transactions(request: Request) -> SlotLimitedTransactions:
    """Returns the object that runs the database transactions of this request.

    It lets only a few transactions of one tenant run at the same time. All operators together count as one tenant.
    """
    session: ActiveSession = request.state.console_session
    return SlotLimitedTransactions(request.state.database, request.state.console_limit, session.client.tenant_id)


class SubmittedForm:
    """The fields of a form that the browser has sent. A field may have several values."""

    def __init__(self, values: ParameterValues) -> None:
        self._values = values

    def first_value(self, name: str) -> str:
        """Returns the first value of a field without the spaces around it; "" if the form does not have the field."""
        return self._values.get(name, [""])[0].strip()

    def all_values(self, name: str) -> list[str]:
        """Returns all values of a field, such as those of several checkboxes with one name."""
        return self._values.get(name, [])


async def read_console_form(request: Request) -> SubmittedForm:
    return SubmittedForm(await read_form_body(request))


SubmittedFormDep = Annotated[SubmittedForm, Depends(read_console_form)]


class ConsoleRoute(ScopedRoute):
    """A route that authenticates with a session of the console instead of an API key.

    Refuses a POST that a page of another site has sent (CSRF), before it does anything else.
    """

    def authentication_dependency(self) -> Callable[..., Any]:
        return authenticate_session

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            if request.method not in _SAFE_METHODS:
                require_same_origin(request)
            try:
                response = await handle(request)
            except AdministrationError as error:
                raise api_error_for_administration_error(error) from error
            except Unauthorized:
                if request.method not in _SAFE_METHODS:
                    raise
                response = _redirect_to_login(request)
            return add_security_headers(response)

        return handle_page


def console_router(path: str = "") -> APIRouter:
    """Returns a router whose routes are of the class ConsoleRoute. Their paths begin with `/console`, followed by `path`.

    If the response to a POST may be a page, such as the form with an error text, add a GET route with the same path, which
    redirects to the page that has the form. A browser sends this GET when a person opens the URL of the response again.
    """
    return APIRouter(prefix=CONSOLE_PREFIX + path, include_in_schema=False, route_class=ConsoleRoute)


def require_same_origin(request: Request) -> None:
    """Raises OriginRefused unless a page of this host sent the request.

    Checks the headers `Origin` and `Sec-Fetch-Site`, which browsers set and pages cannot change.
    """
    try:
        origin = urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        raise OriginRefused from None
    host = request.headers.get("Host", "")
    if origin.scheme not in ("http", "https") or not host or origin.netloc.lower() != host.lower():
        raise OriginRefused
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise OriginRefused


def path_after_login(text: str) -> str:
    """Returns the text if it is a path of the console other than the login, with or without a query; otherwise `/console`."""
    path, _, _ = text.partition("?")
    inside = path == CONSOLE_PREFIX or path.startswith(f"{CONSOLE_PREFIX}/")
    plain = text.isascii() and text.isprintable() and "\\" not in text and " " not in text
    # Browsers or proxies may read a path with `..` or `//` as one outside /console.
    leaves = any(part in unquote(path) for part in ("..", "//"))
    return text if inside and plain and not leaves and not path.startswith(LOGIN_PATH) else CONSOLE_PREFIX


def _redirect_to_login(request: Request) -> Response:
    """Returns a response that opens the login page. After the login, the user returns to the page that was open or requested.

    If htmx sent the request, the response is a 401 with `HX-Redirect`, which opens the login page instead of the current page.
    (htmx would put a page to which a normal redirect leads into a part of the current page.)

    If the request comes from a click on another site and has no session's cookie, the response is a page that opens the login
    page by a new request. The browser sends the cookie, which is `SameSite=Strict`, with this new request only. If the session
    has not ended, the login page then redirects to the requested page.

    Otherwise, the response is a normal redirect.
    """
    page = path_after_login(_path_of_page(request))
    target = f"{LOGIN_PATH}?{urlencode({'next': page})}"
    if SESSION_COOKIE_NAME not in request.cookies and request.headers.get("Sec-Fetch-Site") == "cross-site":
        return page_response(request, "onward.html", heading="Opening the console", next_path=target)
    if page == CONSOLE_PREFIX:
        target = LOGIN_PATH
    if "HX-Request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": target})
    return RedirectResponse(target, status_code=303)


def _path_of_page(request: Request) -> str:
    """Returns the path and query of the requested page. If htmx refreshes a part of a page, returns those of the whole page."""
    url = urlsplit(str(request.url))
    if _is_automatic_page_refresh(request):
        try:
            url = urlsplit(request.headers.get("HX-Current-URL", ""))
        except ValueError:
            return CONSOLE_PREFIX
    return f"{url.path}?{url.query}" if url.query else url.path


def _is_automatic_page_refresh(request: Request) -> bool:
    """Returns whether htmx sent the request to refresh a part of a page, without an action of the user."""
    return request.headers.get("HX-Request") == "true" and "HX-Boosted" not in request.headers
