"""HTTP clients for tests of servers without TLS.

Their timeout is 60 s, which even a slow machine does not reach. httpx's own default is 5 s.
"""

import asyncio
import ssl
from functools import partial
from typing import Any, Final

import httpx

from app.observability.metrics import EXPOSITION_INTERVAL_S

TIMEOUT_S: Final = 60.0
NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A TLS context that trusts no server. Loading the system's certificates instead would take long."""

http_get = partial(httpx.get, timeout=TIMEOUT_S, verify=NO_CERTIFICATES)
http_post = partial(httpx.post, timeout=TIMEOUT_S, verify=NO_CERTIFICATES)
_DEFAULTS: Final[dict[str, Any]] = {"timeout": TIMEOUT_S, "verify": NO_CERTIFICATES}


def http_client(**options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(**_DEFAULTS | options)


def sync_http_client(**options: Any) -> httpx.Client:
    return httpx.Client(**_DEFAULTS | options)


async def metric_value(base_url: str, series: str) -> float:
    """Returns a time series' current value in /metrics, 0 if there is none. Example: `callgate_expired_total{what="calls"}`."""
    await asyncio.sleep(EXPOSITION_INTERVAL_S)
    async with http_client(base_url=base_url) as prometheus:
        lines = (await prometheus.get("/metrics")).text.splitlines()
    return sum(float(line.removeprefix(f"{series} ")) for line in lines if line.startswith(f"{series} "))
