"""Logs, metrics and traces of one process. Independent of routes and tables."""

from app.observability.logs import configure_logging
from app.observability.metrics import Metrics

__all__ = ["Metrics", "configure_logging"]
