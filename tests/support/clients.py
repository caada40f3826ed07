"""HTTP clients with a timeout of 60 s, which even a slow machine does not reach. httpx's own default is 5 s."""

from functools import partial
from typing import Any, Final

import httpx

TIMEOUT_S: Final = 60.0

http_get = partial(httpx.get, timeout=TIMEOUT_S)
http_post = partial(httpx.post, timeout=TIMEOUT_S)


def http_client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(**{"timeout": TIMEOUT_S} | options)


def sync_http_client(**options: Any) -> httpx.Client:
    return httpx.Client(**{"timeout": TIMEOUT_S} | options)
