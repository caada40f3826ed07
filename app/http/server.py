"""How every uvicorn server of ours is configured."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from app.http.limits import ServerLimits
from app.http.protocol import BoundedProtocol

# Longer than clients and balancers keep an idle connection, so that it is they who close it: a request that comes while the
# server closes is lost.
_KEEP_ALIVE_S = 75


def server_config(app: ASGIApp | Callable[[], ASGIApp], limits: ServerLimits | None = None, **options: Any) -> uvicorn.Config:
    """`options` are uvicorn's own. WebSockets are off: a handshake would log its whole target."""
    protocol = partial(BoundedProtocol, limits=limits or ServerLimits())
    defaults: dict[str, Any] = {
        "http": cast("type[Any]", protocol),  # uvicorn only calls it, and `--workers` has to pickle it
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # nothing here depends on the caller's address or scheme
        "timeout_keep_alive": _KEEP_ALIVE_S,
    }
    return uvicorn.Config(app, **(defaults | options))
