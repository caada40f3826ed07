"""Login with an API key or a one-time link, logout, and the page about the session."""

from typing import Annotated

from fastapi import Query, Request, Response
from starlette.responses import RedirectResponse

from app.audit.events import Actor
from app.console.access import (
    LOGIN_PATH,
    SESSION_COOKIE_NAME,
    ConsoleClientDep,
    SubmittedFormDep,
    console_router,
    current_session,
    path_after_login,
)
from app.console.rendering import page_response
from app.console.sessions.service import ConsoleSessions
from app.errors import TooManyAttempts, Unauthorized
from app.http.authentication import client_of_api_key
from app.http.operations import CONSOLE_PREFIX
from app.http.routes import needs, public
from app.tenants.caller import Caller, OperatorCaller
from app.tenants.scopes import Scope, sort_scopes

router = console_router()

_USED_LINK_TEXT = "This link was used before, or has expired. Make a new one with `callgate console link`."
_WRONG_KEY_TEXT = "This API key is unknown, expired or revoked."


@router.get("/login")
@public
async def show_login(request: Request, next_path: Annotated[str, Query(alias="next")] = "") -> Response:
    """Shows the login page. Redirects to the path `next` if it is given and the person is logged in."""
    if next_path and await current_session(request):
        return RedirectResponse(path_after_login(next_path), status_code=303)
    return login_page(request, next_path=path_after_login(next_path))


def login_page(
    request: Request, *, status: int = 200, next_path: str = CONSOLE_PREFIX, error_text: str | None = None
) -> Response:
    """Returns the login page. `error_text` says why the last login failed; `next_path` is the path to open after the login."""
    has_oidc = request.state.console_oidc is not None
    return page_response(
        request, "sessions/login.html", status=status, next_path=next_path, error_text=error_text, has_oidc=has_oidc
    )


@router.post("/login")
@public
async def log_in(request: Request, form: SubmittedFormDep) -> Response:
    next_path = path_after_login(form.first_value("next"))
    try:
        client = await client_of_api_key(request, form.first_value("key"))
    except Unauthorized:
        return login_page(request, status=401, next_path=next_path, error_text=_WRONG_KEY_TEXT)
    except TooManyAttempts as error:
        error_text = f"Too many wrong API keys came from your address. Try again in {error.retry_after_s} s."
        response = login_page(request, status=429, next_path=next_path, error_text=error_text)
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response
    return await start_session(request, client, RedirectResponse(next_path, status_code=303))


@router.get("/link/{link}")
@public
async def show_login_link_form(request: Request, link: str) -> Response:
    """Shows a form that uses the one-time link. Opening the link does not use it: chat programs open links for previews."""
    return page_response(request, "sessions/link.html", link=link)


@router.post("/link")
@public
async def log_in_with_link(request: Request, form: SubmittedFormDep) -> Response:
    sessions: ConsoleSessions = request.state.console_sessions
    token = await sessions.redeem_login_link(form.first_value("link"), request_id=request.state.request_id)
    if token is None:
        return login_page(request, status=401, error_text=_USED_LINK_TEXT)
    return _set_cookie(RedirectResponse(CONSOLE_PREFIX, status_code=303), token, sessions)


async def start_session(request: Request, client: Caller | OperatorCaller, response: Response) -> Response:
    """Starts a session for the client, and returns the response with the cookie of the session."""
    sessions: ConsoleSessions = request.state.console_sessions
    token = await sessions.start(client, request_id=request.state.request_id)
    return _set_cookie(response, token, sessions)


def _set_cookie(response: Response, token: str, sessions: ConsoleSessions) -> Response:
    lifetime_s = int(sessions.lifetime.total_seconds())
    response.set_cookie(SESSION_COOKIE_NAME, token, max_age=lifetime_s, path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.post("/logout")
@public
async def log_out(request: Request) -> Response:
    """Ends the session. The route needs no scope, so a person without the scope `read` can log out, too."""
    session = await current_session(request)
    if session:
        sessions: ConsoleSessions = request.state.console_sessions
        await sessions.end(session.id, Actor(session.client.kind, session.client.name, request.state.request_id))
    response = RedirectResponse(LOGIN_PATH, status_code=303)
    response.delete_cookie(SESSION_COOKIE_NAME, path="/", secure=True, httponly=True, samesite="strict")
    return response


@router.get("/session")
@needs(Scope.READ, clients="any")
async def show_session(request: Request, client: ConsoleClientDep) -> Response:
    session = request.state.console_session
    return page_response(request, "sessions/session.html", session=session, scopes=sort_scopes(client.scopes))
