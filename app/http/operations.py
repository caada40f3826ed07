"""The operations port: a separate port for probes, metrics, documentation and the admin API."""

from dataclasses import dataclass

from starlette.types import Scope

ADMIN_PREFIX = "/v1/admin"
_METRICS_PATH = "/metrics"
_PATHS = frozenset({"/livez", "/readyz", _METRICS_PATH, "/", "/docs", "/redoc", "/redoc.standalone.js", "/openapi.json"})
_FOLDERS = ("/docs/", "/static-offline-docs/")


@dataclass(frozen=True, slots=True)
class OperationsPort:
    """Decides which paths a port serves. Without an operations port, every port serves all paths."""

    port: int | None

    def serves(self, scope: Scope) -> bool:
        if self.port is None:
            return True
        path: str = scope["path"]
        is_admin = path.startswith(f"{ADMIN_PREFIX}/")
        if scope["server"] and scope["server"][1] == self.port:
            return is_admin or path in _PATHS or path.startswith(_FOLDERS)
        return not is_admin and path != _METRICS_PATH
