"""Adds the HTTP headers that protect the console's pages, such as Content-Security-Policy."""

from typing import Final, TypeVar

from starlette.responses import Response

AnyResponse = TypeVar("AnyResponse", bound=Response)

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
# Not `no-referrer`: with it browsers send `Origin: null` with every form, and the check of `Origin` would refuse them all.
_REFERRER_POLICY = "same-origin"


def add_security_headers(response: AnyResponse) -> AnyResponse:
    """Adds headers that forbid storing the page, framing it and loading scripts of other sites.

    Keeps an existing Cache-Control.
    """
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Referrer-Policy"] = _REFERRER_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
