"""What all routes of the console share: the session, the `Origin` of acts, the headers of pages, and who sees what.

    router = console_router("/things")

    @router.get("")
    @needs(Scope.READ, clients="any")
    async def list_things(request: Request, client: ConsoleClientDep) -> Response:
        return page_response(request, "things/list.html", things=await …(tenant_id=client.tenant_id))

Without a session, a page leads to the login and an act is refused. A tenant's client has a `tenant_id`, which limits what its
queries read; an operator's is None. docs/console.md describes sessions.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import unquote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import RedirectResponse

from app.admin.problems import problem_for
from app.audit.events import Actor
from app.console.headers import protect_page
from app.console.reads import LimitedReads
from app.console.sessions.service import ActiveSession, ConsoleSessions
from app.errors import OriginRefused, TenantSuspended, Unauthorized
from app.http.form import ParameterValues, read_form_body
from app.http.operations import CONSOLE_PREFIX
from app.http.routes import Endpoint, ScopedRoute
from app.observability.context import bind
from app.tenants.access import authorize
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.errors import OperatorError

COOKIE = "__Host-callgate-console"
LOGIN_PATH = f"{CONSOLE_PREFIX}/login"
_READING = ("GET", "HEAD")
_OPEN_TO_SUSPENDED = "open_to_suspended"
_SUSPENDED = (
    "An operator has suspended this tenant. It can see its records, end calls and send deliveries again, and nothing else."
)


async def session_of(request: Request) -> ActiveSession | None:
    """Returns the session of the request's cookie; None if there is none, or it has ended."""
    sessions: ConsoleSessions = request.state.console_sessions
    token = request.cookies.get(COOKIE)
    return await sessions.find(token, is_use=not _renews_itself(request)) if token else None


async def authenticate_session(request: Request) -> Caller | OperatorCaller:
    """Returns the client of the session, if it has what the route declares.

    Raises Unauthorized, ScopeRequired, TenantKeyRequired, OperatorKeyRequired, or TenantSuspended for an act.
    """
    session = await session_of(request)
    if session is None:
        raise Unauthorized("Your session has ended. Log in again.")
    client = session.client
    bind(tenant_id=client.tenant_id, key_id=str(client.key_id))
    request.state.console_session = session
    authorize(client, request.scope["route"].access)
    is_suspended = isinstance(client, Caller) and client.suspended
    if is_suspended and request.method not in _READING and not _is_open_to_suspended(request):
        raise TenantSuspended(_SUSPENDED)
    return client


def open_to_suspended(endpoint: Endpoint) -> Endpoint:
    """Declares that a suspended tenant may send this form, because its keys may do the same under /v1."""
    setattr(endpoint, _OPEN_TO_SUSPENDED, True)
    return endpoint


def _is_open_to_suspended(request: Request) -> bool:
    return getattr(request.scope["route"].endpoint, _OPEN_TO_SUSPENDED, False)


ConsoleClientDep = Annotated[Caller | OperatorCaller, Depends(authenticate_session)]


async def acting_person(request: Request, client: ConsoleClientDep) -> Actor:
    """Returns the client of the session as the actor of the audit log."""
    return Actor(client.kind, client.name, request.state.request_id)


ConsoleActorDep = Annotated[Actor, Depends(acting_person)]


def reads_of(request: Request) -> LimitedReads:
    """Returns the database from which the page of a session reads."""
    session: ActiveSession = request.state.console_session
    return LimitedReads(request.state.database, request.state.console_reads, session.client.tenant_id)


class SentForm:
    """The fields of a form that was sent."""

    def __init__(self, values: ParameterValues) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """Returns the first value without spaces around it; "" if the form does not have the field."""
        return self._values.get(name, [""])[0].strip()

    def all(self, name: str) -> list[str]:
        """Returns all values, for checkboxes of one name."""
        return self._values.get(name, [])


async def read_console_form(request: Request) -> SentForm:
    return SentForm(await read_form_body(request))


SentFormDep = Annotated[SentForm, Depends(read_console_form)]


class ConsoleRoute(ScopedRoute):
    """A route with a session instead of an API key. Refuses POSTs from other sites (CSRF) before anything else."""

    def authentication(self) -> Callable[..., Any]:
        return authenticate_session

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            if request.method not in _READING:
                require_own_origin(request)
            try:
                response = await handle(request)
            except OperatorError as error:
                raise problem_for(error) from error
            except Unauthorized:
                if request.method not in _READING:
                    raise
                response = _lead_to_login(request)
            return protect_page(response)

        return handle_page


def console_router(path: str = "") -> APIRouter:
    """Returns a router for the pages below `/console` and this path."""
    return APIRouter(prefix=CONSOLE_PREFIX + path, include_in_schema=False, route_class=ConsoleRoute)


def require_own_origin(request: Request) -> None:
    """Raises OriginRefused unless a page of this host sent the request. Browsers add both headers; no page can change them."""
    try:
        origin = urlsplit(request.headers.get("Origin", ""))
    except ValueError:
        raise OriginRefused from None
    host = request.headers.get("Host", "")
    if origin.scheme not in ("http", "https") or not host or origin.netloc.lower() != host.lower():
        raise OriginRefused
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise OriginRefused


def local_path(text: str) -> str:
    """Returns a path of the console with its query; the console's first page for anything else, such as another site's URL."""
    path, _, _ = text.partition("?")
    inside = path == CONSOLE_PREFIX or path.startswith(f"{CONSOLE_PREFIX}/")
    plain = text.isascii() and text.isprintable() and "\\" not in text and " " not in text
    # Browsers and proxies would leave /console by these.
    leaves = any(part in unquote(path) for part in ("..", "//"))
    return text if inside and plain and not leaves and not path.startswith(LOGIN_PATH) else CONSOLE_PREFIX


def _lead_to_login(request: Request) -> Response:
    """Returns a redirect to the login, which leads back to this page.

    htmx would follow a redirect and put the login into a part of the page. HX-Redirect makes it open the login instead.
    """
    query = f"?{request.url.query}" if request.url.query else ""
    if "HX-Request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": LOGIN_PATH})
    wanted = local_path(request.url.path + query)
    target = f"{LOGIN_PATH}?{urlencode({'next': wanted})}" if wanted != CONSOLE_PREFIX else LOGIN_PATH
    return RedirectResponse(target, status_code=303)


def _renews_itself(request: Request) -> bool:
    return request.headers.get("HX-Request") == "true" and "HX-Boosted" not in request.headers
