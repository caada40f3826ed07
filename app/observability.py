"""Logging and metrics of one process. Knows no route and no table.

Logs go to standard output, one line per event: a constant message, values in fields. What never goes into a field: tokens,
secrets, TwiML, request parameters, phone numbers and SIP users.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app import __version__

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0)
# Chatty, and they write whole URLs (httpx) or statements with their values (sqlalchemy).
_QUIET_LOGGERS = ("httpx", "httpcore", "uvicorn.access", "sqlalchemy.engine", "asyncio")


def configure_logging(*, level: str, format_: Literal["json", "text"], stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging alike, once per process; to standard output by default."""
    stream = stream or sys.stdout
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[structlog.types.Processor]
    if format_ == "json":
        renderer = [_exception_without_values, structlog.processors.JSONRenderer()]
    else:
        renderer = [
            _exception_without_values,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _exception_without_values(_: Any, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """A traceback as places and class names. Messages of exceptions repeat values (SQL parameters, bodies): left out."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        chain = []
        while error is not None:
            chain.append({"class": type(error).__qualname__, "at": _places(error)})
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        event["error_chain"] = chain
    return event


def _places(error: BaseException) -> list[str]:
    places = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places


class Metrics:
    """Everything that /metrics shows. Labels come from short, fixed sets: never ids, tenants or numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("callgate_build_info", "Always 1; the label is the version.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)
        self.requests = Counter(
            "callgate_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "callgate_http_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.creations = Counter(
            "callgate_creations_total",
            "Creations that were dialled, by what became of them.",
            ["execution"],
            registry=self.registry,
        )
        self.refused = Counter(
            "callgate_refused_total",
            "Requests answered with a problem, by its slug.",
            ["slug"],
            registry=self.registry,
        )
        self.in_flight = Gauge("callgate_creations_in_flight", "Creations on their way to Twilio now.", registry=self.registry)
        self.refreshes = Counter(
            "callgate_refreshes_total",
            "Looks at Twilio's record of a call, by result.",
            ["result"],
            registry=self.registry,
        )
        self.credentials_rejected = Counter(
            "callgate_credentials_rejected_total", "Times that Twilio refused a credential.", registry=self.registry
        )
        self.settled = Counter(
            "callgate_settled_total", "Executions settled, by how that was known.", ["by"], registry=self.registry
        )
        self.corrected = Counter(
            "callgate_corrected_total",
            "Calls told as not started that turned out to have started: each is worth looking into.",
            registry=self.registry,
        )
        self.callbacks = Counter(
            "callgate_callbacks_total", "Twilio's callbacks, by result.", ["result"], registry=self.registry
        )
        self.deliveries = Counter(
            "callgate_delivery_attempts_total",
            "Attempts to tell a tenant of an event, by result.",
            ["result"],
            registry=self.registry,
        )
        self.searches = Counter(
            "callgate_searches_total", "Searches for unknown creations, by result.", ["result"], registry=self.registry
        )
        self.abandoned = Counter(
            "callgate_abandoned_total",
            "Pending creations whose process died, found and marked unknown.",
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
