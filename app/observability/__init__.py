"""Logs, metrics and traces of one process. Does not import routes or table models."""

from app.observability.logs import configure_logging
from app.observability.metrics import Metrics

__all__ = ["Metrics", "configure_logging"]
