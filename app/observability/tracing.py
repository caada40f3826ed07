"""Where a request's time goes: for its log line, for Server-Timing and, when they are on, for OpenTelemetry traces.

Whoever opens a trace (the middleware, a job) says where its spans go; what is below only marks its part with `Step`. Spans
are our own and hold nothing but what is written here: the ready-made instrumentations put URLs and statements into theirs.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Thread
from typing import Literal, Self, TypedDict

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from app import __version__
from app.observability.context import note

logger = structlog.stdlib.get_logger(__name__)

Part = Literal["database", "upstream", "receiver"]


class _Silent(TypedDict):
    record_exception: bool
    set_status_on_exception: bool


_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CLOSING_PATIENCE_S = 3.0
_TRACEPARENT = "traceparent"
# Messages of exceptions repeat values.
_NO_MESSAGES: _Silent = {"record_exception": False, "set_status_on_exception": False}
_propagator = TraceContextTextMapPropagator()
_tracer: ContextVar[Tracer | None] = ContextVar("callgate_tracer", default=None)
_opened: ContextVar[Span | None] = ContextVar("callgate_opened", default=None)
_spent: ContextVar[dict[str, float] | None] = ContextVar("callgate_spent", default=None)


class Tracing:
    """The traces of one process, or none. Not OpenTelemetry's global provider: libraries that find it fill it by themselves."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = provider.get_tracer("callgate") if provider else None
        self._provider = provider

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str], *, trusted: bool) -> Iterator[dict[str, float]]:
        """A request from outside; yields the seconds that its parts take. `trusted`: its `traceparent` is followed."""
        spent: dict[str, float] = {}
        _spent.set(spent)
        _tracer.set(self._tracer)
        if self._tracer is None:
            yield spent
            return
        parent = _propagator.extract(headers) if trusted else Context()
        with self._tracer.start_as_current_span(name, parent, SpanKind.SERVER, **_NO_MESSAGES) as span:
            _opened.set(span)
            note(trace_id=f"{span.get_span_context().trace_id:032x}")
            yield spent

    @contextmanager
    def active(self) -> Iterator[None]:
        """For what asks by itself and is not asked, such as a worker: `trace` works within."""
        token = _tracer.set(self._tracer)
        try:
            yield
        finally:
            _tracer.reset(token)

    def close(self) -> None:
        """Send what has not been sent. Blocks, but not for as long as an exporter asks a collector that is away."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            closing = Thread(target=shutdown, name="closing traces", daemon=True)
            closing.start()
            closing.join(_CLOSING_PATIENCE_S)


def tracing_of_this_environment() -> Tracing:
    """On when the standard OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set; the SDK reads its other variables."""
    wanted = any(os.environ.get(name) for name in _ENDPOINTS) and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
    if not wanted:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("tracing_unavailable", hint="install callgate[otel], or unset OTEL_EXPORTER_OTLP_ENDPOINT")
        return Tracing()
    ours = Resource({"service.name": "callgate", "service.version": __version__})
    # Closed by whoever uses it: at exit would be too late, for uvicorn ends by the signal that it was told to end by.
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Step:
    """A part of a request: `with Step("database"):`. Its time is added up, and it is a span where there is a trace."""

    __slots__ = ("_attributes", "_began", "_name", "_part", "_scope", "_span")

    def __init__(self, part: Part, name: str | None = None, attributes: Mapping[str, AttributeValue] | None = None) -> None:
        self._part: Part = part
        self._name = name or part
        self._attributes = attributes
        self._span: Span | None = None

    def __enter__(self) -> Self:
        tracer = _tracer.get()
        if tracer is not None and get_current_span().is_recording():
            self._span = tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
            self._scope = use_span(self._span, end_on_exit=True, **_NO_MESSAGES)
            self._scope.__enter__()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        spent = _spent.get()
        if spent is not None:
            spent[self._part] = spent.get(self._part, 0.0) + time.perf_counter() - self._began
        if self._span is not None:
            self._scope.__exit__(None, None, None)


@contextmanager
def trace(name: str, *, caused_by: str | None, attributes: Mapping[str, AttributeValue]) -> Iterator[None]:
    """A trace of its own for work that nobody waits for, linked to the one that caused it (`current_traceparent` of then)."""
    tracer = _tracer.get()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(name, Context(), attributes=attributes, links=_links(caused_by), **_NO_MESSAGES) as span:
        _opened.set(span)
        yield


def link(caused_by: str | None) -> None:
    """The trace that is open now was caused by that one."""
    span = _opened.get()
    if span is not None:
        for one in _links(caused_by):
            span.add_link(one.context)


def is_traced() -> bool:
    """Whether there is an open span to `describe`; without one there is nothing to prepare."""
    return _tracer.get() is not None and get_current_span().is_recording()


def describe(attributes: Mapping[str, AttributeValue], *, name: str | None = None) -> None:
    """Of the open span: words of ours, numbers and ids; never an address, a URL or a statement."""
    span = get_current_span()
    if span.is_recording():
        span.set_attributes(attributes)
        if name is not None:
            span.update_name(name)


def fail(reason: str) -> None:
    """The open span did not do what it was to; `reason` is a word of ours or the name of a class, never a message."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute("error.type", reason)
        span.set_status(StatusCode.ERROR)


def current_traceparent() -> str | None:
    """The open span, as a W3C `traceparent`, to be kept with what it causes; None where there is no trace."""
    if _tracer.get() is None:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(_TRACEPARENT)


def _links(traceparent: str | None) -> list[Link]:
    if traceparent is None:
        return []
    context = get_current_span(_propagator.extract({_TRACEPARENT: traceparent})).get_span_context()
    return [Link(context)] if context.is_valid else []
