"""Logs, metrics and traces of one process. Knows no route and no table."""

from app.observability.logs import configure_logging
from app.observability.metrics import Metrics

__all__ = ["Metrics", "configure_logging"]
