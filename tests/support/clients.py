"""HTTP clients for tests of servers without TLS.

Their timeout is 60 s, which even a slow machine does not reach. httpx's own default is 5 s.
"""

import ssl
from functools import partial
from typing import Any, Final

import httpx

TIMEOUT_S: Final = 60.0
NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A TLS context that trusts no server. It is created at once, while loading the system's certificates takes long."""

http_get = partial(httpx.get, timeout=TIMEOUT_S, verify=NO_CERTIFICATES)
http_post = partial(httpx.post, timeout=TIMEOUT_S, verify=NO_CERTIFICATES)
_DEFAULTS: Final[dict[str, Any]] = {"timeout": TIMEOUT_S, "verify": NO_CERTIFICATES}


def http_client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(**_DEFAULTS | options)


def sync_http_client(**options: Any) -> httpx.Client:
    return httpx.Client(**_DEFAULTS | options)
