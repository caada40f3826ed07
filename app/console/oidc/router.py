"""Login with OpenID Connect: the redirect to the provider, and the request with which the browser comes back.

An encrypted cookie keeps state, nonce and verifier for ten minutes. It is `SameSite=Lax`: when the provider's site sends the
browser back to Callgate, the browser sends no `Strict` cookie.
"""

import hmac
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import structlog
from fastapi import Request, Response
from starlette.responses import RedirectResponse

from app.console.access import console_router, path_after_login
from app.console.oidc.login import LoginAttempt, ProviderFailed
from app.console.oidc.rules import client_for_claims
from app.console.rendering import page_response
from app.console.sessions.router import login_page, start_session
from app.console_settings import OidcAccessRule
from app.errors import RouteNotFound, TenantNotFound
from app.http.key_attempts import FailedAuthenticationLimiter
from app.http.routes import public
from app.security.keyring import Keyring, SecretUnreadable

if TYPE_CHECKING:
    from app.console.oidc.provider import OidcProvider

logger = structlog.stdlib.get_logger(__name__)

router = console_router("/oidc")

OIDC_LOGIN_COOKIE_NAME: Final = "__Host-callgate-oidc"
_COOKIE_ASSOCIATED_DATA = "console oidc attempt"
_ATTEMPT_LIFETIME_S = 600
# Given to FailedAuthenticationLimiter instead of the hash of a key: a login with OpenID Connect has no key.
_FAILED_LOGIN_COUNTER_KEY = b"oidc"
_FAILED_TEXT = "The login at the provider did not succeed. Try again; the log has the reason."
_OUTDATED_TEXT = "This login took too long, or was begun in another browser. Try again."
_NO_RULE_TEXT = "The provider knows you, and no rule of this installation gives you access. Ask its operator."


@router.get("/login")
@public
async def begin_login(request: Request) -> Response:
    """Redirects the browser to the login page of the OpenID Connect provider.

    The console's login page has a link to this route, not a form. The Content-Security-Policy has `form-action 'self'`, and
    browsers would apply this to the redirect that follows a form, too.
    """
    provider = _provider_of(request)
    try:
        address, attempt = await provider.begin_authorization()
    except ProviderFailed as error:
        return _refuse_login(request, _FAILED_TEXT, 502, str(error))
    next_path = path_after_login(request.query_params.get("next", ""))
    kept = asdict(attempt) | {"wanted": next_path, "until": time.time() + _ATTEMPT_LIFETIME_S}
    keyring: Keyring = request.state.keyring
    encrypted = keyring.encrypt(json.dumps(kept), associated_data=_COOKIE_ASSOCIATED_DATA).hex()
    response = RedirectResponse(address, status_code=303)
    response.set_cookie(
        OIDC_LOGIN_COOKIE_NAME, encrypted, max_age=_ATTEMPT_LIFETIME_S, path="/", secure=True, httponly=True, samesite="lax"
    )
    return response


@router.get("/callback")
@public
async def finish_login(request: Request) -> Response:
    """Logs in the person whom the provider names, if a rule in the settings gives this person access.

    Otherwise, returns the login page with the reason.
    """
    provider = _provider_of(request)
    attempts: FailedAuthenticationLimiter = request.state.key_attempts
    address = attempts.rate_limit_address(request.scope)
    attempts.require_below_failure_limit(address, _FAILED_LOGIN_COUNTER_KEY)
    kept = _login_attempt_from_cookie(request)
    query = request.query_params
    if kept is None or not hmac.compare_digest(query.get("state", "").encode(), kept[0].state.encode()):
        return _refuse_login(request, _OUTDATED_TEXT, 401, "state")
    attempt, next_path = kept
    if "code" not in query or query.get("iss", provider.issuer) != provider.issuer:
        return _refuse_login(request, _FAILED_TEXT, 401, "no_code")
    try:
        claims = await provider.fetch_claims(query["code"], attempt)
    except ProviderFailed as error:
        attempts.record_wrong_key(address, _FAILED_LOGIN_COUNTER_KEY)
        return _refuse_login(request, _FAILED_TEXT, 401, str(error))
    rules: tuple[OidcAccessRule, ...] = request.state.console_oidc_rules
    client = client_for_claims(rules, claims)
    if client is None:
        return _refuse_login(request, _NO_RULE_TEXT, 403, "no_rule")
    # The response is a page, because browsers would send no `Strict` cookie after a redirect that the provider began.
    try:
        page = page_response(request, "onward.html", heading="You are logged in", next_path=next_path)
        response = await start_session(request, client, page)
    except TenantNotFound:
        return _refuse_login(request, _NO_RULE_TEXT, 403, "no_such_tenant")
    _delete_cookie(response)
    return response


def _provider_of(request: Request) -> "OidcProvider":
    provider: OidcProvider | None = request.state.console_oidc
    if provider is None:
        raise RouteNotFound
    return provider


def _login_attempt_from_cookie(request: Request) -> tuple[LoginAttempt, str] | None:
    """Returns the values that `begin_login` stored in the cookie, and the path to open after the login.

    Returns None if there is no valid cookie, or if the login began more than ten minutes ago.
    """
    keyring: Keyring = request.state.keyring
    try:
        kept = json.loads(
            keyring.decrypt(
                bytes.fromhex(request.cookies.get(OIDC_LOGIN_COOKIE_NAME, "")), associated_data=_COOKIE_ASSOCIATED_DATA
            )
        )
    except (ValueError, SecretUnreadable):
        return None
    if kept["until"] < time.time():
        return None
    return LoginAttempt(kept["state"], kept["nonce"], kept["verifier"]), kept["wanted"]


def _refuse_login(request: Request, error_text: str, status: int, reason: str) -> Response:
    """Returns the login page with `error_text`, deletes the cookie of the login, and logs the reason."""
    logger.warning("console_oidc_refused", reason=reason)
    response = login_page(request, status=status, error_text=error_text)
    _delete_cookie(response)
    return response


def _delete_cookie(response: Response) -> None:
    response.delete_cookie(OIDC_LOGIN_COOKIE_NAME, path="/", secure=True, httponly=True, samesite="lax")
