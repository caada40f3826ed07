"""Decides which paths the operations port serves, and which paths the API's port serves.

The operations port is a separate port for probes, metrics, documentation, the admin API and the console.
"""

from dataclasses import dataclass

from starlette.types import Scope

ADMIN_PREFIX = "/v1/admin"
CONSOLE_PREFIX = "/console"
_METRICS_PATH = "/metrics"
_OPERATIONS_PATHS = frozenset(
    {"/livez", "/readyz", _METRICS_PATH, "/", "/docs", "/redoc", "/redoc.standalone.js", "/openapi.json"}
)
_OPERATOR_PREFIXES = (f"{ADMIN_PREFIX}/", f"{CONSOLE_PREFIX}/")
_OPERATIONS_PREFIXES = ("/docs/", "/static-offline-docs/")


@dataclass(frozen=True, slots=True)
class OperationsPort:
    """Decides which paths each port of the process serves.

    `port` is the number of the operations port, a separate port for probes, metrics, documentation, the admin API and the
    console. If `port` is None, the process has no such port, and its only port serves all paths.
    """

    port: int | None

    def is_port_of(self, server: tuple[str, int | None] | None) -> bool:
        """Returns whether a connection is at the operations port. `server` is the connection's local address and port."""
        return self.port is not None and server is not None and server[1] == self.port

    def serves_path(self, scope: Scope) -> bool:
        """Returns whether the port that received the request serves its path."""
        if self.port is None:
            return True
        path: str = scope["path"]
        is_for_operators = path.startswith(_OPERATOR_PREFIXES) or path == CONSOLE_PREFIX
        if self.is_port_of(scope["server"]):
            return is_for_operators or path in _OPERATIONS_PATHS or path.startswith(_OPERATIONS_PREFIXES)
        return not is_for_operators and path != _METRICS_PATH
