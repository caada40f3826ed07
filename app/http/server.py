"""Configures uvicorn for every server of the project."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from app.http.limits import ServerLimits
from app.http.protocol import BoundedProtocol

# Longer than clients and load balancers keep an idle connection, so that they close it first: a request that arrives while the
# server closes the connection is lost.
_KEEP_ALIVE_S = 75


def server_config(app: ASGIApp | Callable[[], ASGIApp], limits: ServerLimits | None = None, **options: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration; `options` override the defaults below.

    WebSockets are disabled: uvicorn would log the target of a handshake, query included.
    """
    protocol = partial(BoundedProtocol, limits=limits or ServerLimits())
    defaults: dict[str, Any] = {
        "http": cast("type[Any]", protocol),  # uvicorn only calls it; a partial can be pickled, as `--workers` requires
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # nothing depends on the scheme; KeyAttempts alone reads the client's address
        "timeout_keep_alive": _KEEP_ALIVE_S,
    }
    return uvicorn.Config(app, **(defaults | options))
