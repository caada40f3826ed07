"""The operations port: a separate port for probes, metrics and documentation."""

from dataclasses import dataclass

from starlette.types import Scope

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
        if scope["server"] and scope["server"][1] == self.port:
            return path in _PATHS or path.startswith(_FOLDERS)
        return path != _METRICS_PATH
