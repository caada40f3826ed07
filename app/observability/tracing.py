"""Measures how long the parts of a request take, such as database statements and requests to Twilio.

The times are in the log line, in the Server-Timing header and, if enabled, in OpenTelemetry traces. The middleware or a job
opens the trace. Inside the trace, the code of each part measures its time with `TimedSpan`. Callgate creates all spans itself,
because ready-made instrumentations put URLs and SQL statements into their spans.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from threading import Thread
from typing import Literal, Self, TypedDict

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer, TracerProvider, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from app import __version__
from app.observability.context import bind_log_fields

logger = structlog.stdlib.get_logger(__name__)

TimedPart = Literal["database", "upstream", "receiver"]


class _ExceptionOptions(TypedDict):
    """OpenTelemetry's options for a span that ends with an exception: whether to record the exception and to set the status."""

    record_exception: bool
    set_status_on_exception: bool


_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# The variable for traces takes precedence.
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_CLOSE_TIMEOUT_S = 3.0
_TRACEPARENT = "traceparent"
# Exception messages repeat values (SQL parameters, bodies).
_SPAN_OPTIONS_WITHOUT_MESSAGES: _ExceptionOptions = {"record_exception": False, "set_status_on_exception": False}
_propagator = TraceContextTextMapPropagator()
_current_tracer: ContextVar[Tracer | None] = ContextVar("callgate_tracer", default=None)
_root_span: ContextVar[Span | None] = ContextVar("callgate_root_span", default=None)
_seconds_by_part: ContextVar[dict[str, float] | None] = ContextVar("callgate_spent", default=None)


class Tracing:
    """The tracer of one process. Without a provider, it creates no spans.

    The provider is not registered as OpenTelemetry's global provider, because the global one also gets the spans of libraries.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = provider.get_tracer("callgate") if provider else None
        self._provider = provider

    def trace_request(
        self, name: str, headers: Mapping[str, str], *, trusted: bool
    ) -> AbstractContextManager[Mapping[str, float]]:
        """Returns a context manager that traces one incoming request.

        It yields the seconds spent in each TimedPart, such as `database`. The yielded mapping is updated until the block ends.
        The request's `traceparent` header is used only if `trusted` is true.
        """
        spent: dict[str, float] = {}
        _seconds_by_part.set(spent)
        _current_tracer.set(self._tracer)
        if self._tracer is None:
            return nullcontext(spent)
        return self._request_span(self._tracer, name, _propagator.extract(headers) if trusted else Context(), spent)

    @contextmanager
    def _request_span(
        self, tracer: Tracer, name: str, parent: Context, spent: Mapping[str, float]
    ) -> Iterator[Mapping[str, float]]:
        """Opens the span of a request, and adds its trace id to the log context (the fields of all log lines).

        Yields `spent`, the seconds spent in each TimedPart, such as `database`.
        """
        with tracer.start_as_current_span(name, parent, SpanKind.SERVER, **_SPAN_OPTIONS_WITHOUT_MESSAGES) as span:
            _root_span.set(span)
            bind_log_fields(trace_id=f"{span.get_span_context().trace_id:032x}")
            yield spent

    @contextmanager
    def background_tracing(self) -> Iterator[None]:
        """Makes `trace_background_work` open traces inside the block.

        Workers run their jobs inside this block. In the API, `trace_request` has the same effect for each request. Without
        either of them, `trace_background_work` opens no trace.
        """
        token = _current_tracer.set(self._tracer)
        try:
            yield
        finally:
            _current_tracer.reset(token)

    def close(self) -> None:
        """Exports the remaining spans. Blocks for a few seconds at most, even when the collector is unreachable."""
        shutdown = getattr(self._provider, "shutdown", None)
        if shutdown is not None:
            closing = Thread(target=shutdown, name="closing traces", daemon=True)
            closing.start()
            closing.join(_CLOSE_TIMEOUT_S)


def tracing_from_environment() -> Tracing:
    """Returns a tracer that exports spans if OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) is set.

    Returns a tracer that does nothing if neither is set, if OTEL_SDK_DISABLED is `true`, or if OTEL_TRACES_EXPORTER is `none`.
    The tracer also does nothing, and a warning is logged, if the exporter is not installed or a variable has an unsupported
    value.
    """
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or _exporter_name() == "none"
    if is_disabled or not any(os.environ.get(name) for name in _ENDPOINT_VARIABLES):
        return Tracing()
    try:
        return Tracing(_make_otlp_provider())
    except ImportError:
        logger.warning("tracing_unavailable", hint="install callgate[otel], or unset OTEL_EXPORTER_OTLP_ENDPOINT")
    except ValueError as error:
        logger.warning("tracing_unavailable", hint=str(error))
    return Tracing()


def _exporter_name() -> str:
    return os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"


def _make_otlp_provider() -> TracerProvider:
    """Returns a provider that exports spans as the variables of OpenTelemetry say.

    Raises ImportError if the exporter is not installed. Raises ValueError if a variable names an exporter other than `otlp`, or
    a protocol other than `http/protobuf`, or has a value that OpenTelemetry refuses.
    """
    protocol = next((value for name in _PROTOCOL_VARIABLES if (value := os.environ.get(name))), _PROTOCOL)
    if _exporter_name() != "otlp" or protocol != _PROTOCOL:
        raise ValueError(f"only OTEL_TRACES_EXPORTER=otlp with OTEL_EXPORTER_OTLP_PROTOCOL={_PROTOCOL} is supported")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own_resource = Resource({"service.name": "callgate", "service.version": __version__})
    # `close` shuts it down: atexit handlers do not run when uvicorn re-raises the signal that stops it.
    provider = SDKTracerProvider(resource=own_resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TimedSpan:
    """A context manager that adds the time of its block to a part of the current request: `with TimedSpan("database"):`.

    The times of the parts are in the log line of the request. Inside a trace, also creates a span for the block.
    """

    __slots__ = ("_attributes", "_began", "_name", "_part", "_scope", "_span")

    def __init__(
        self, part: TimedPart, name: str | None = None, attributes: Mapping[str, AttributeValue] | None = None
    ) -> None:
        self._part: TimedPart = part
        self._name = name or part
        self._attributes = attributes
        self._span: Span | None = None

    def __enter__(self) -> Self:
        tracer = _current_tracer.get()
        if tracer is not None and get_current_span().is_recording():
            self._span = tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes)
            self._scope = use_span(self._span, end_on_exit=True, **_SPAN_OPTIONS_WITHOUT_MESSAGES)
            self._scope.__enter__()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        spent = _seconds_by_part.get()
        if spent is not None:
            spent[self._part] = spent.get(self._part, 0.0) + time.perf_counter() - self._began
        if self._span is not None:
            self._scope.__exit__(None, None, None)


def exclude_task_from_timing() -> None:
    """Excludes the current task from the request's timings. Otherwise the times of concurrent tasks would be added up."""
    _seconds_by_part.set(None)


@contextmanager
def trace_background_work(name: str, *, caused_by: str | None, attributes: Mapping[str, AttributeValue]) -> Iterator[None]:
    """Opens a new trace for background work, and links it to the trace that caused the work.

    `caused_by` is the W3C `traceparent` of that trace. If it is None, there is no link.
    """
    tracer = _current_tracer.get()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(
        name, Context(), attributes=attributes, links=_span_links(caused_by), **_SPAN_OPTIONS_WITHOUT_MESSAGES
    ) as span:
        _root_span.set(span)
        yield


def link_to_cause(caused_by: str | None) -> None:
    """Links the open trace to the trace that caused its work. `caused_by` is the W3C `traceparent` of that trace.

    Does nothing if `caused_by` is None or no trace is open.
    """
    span = _root_span.get()
    if span is not None:
        for one in _span_links(caused_by):
            span.add_link(one.context)


def has_recording_span() -> bool:
    """Returns whether a span is open to which `annotate_span` can add attributes."""
    return _current_tracer.get() is not None and get_current_span().is_recording()


def annotate_span(attributes: Mapping[str, AttributeValue], *, name: str | None = None) -> None:
    """Adds attributes to the current span, if there is one, and renames the span to `name` if given.

    The values must be constants, numbers or ids, never an address, a URL or an SQL statement.
    """
    span = get_current_span()
    if span.is_recording():
        span.set_attributes(attributes)
        if name is not None:
            span.update_name(name)


def mark_span_failed(reason: str) -> None:
    """Marks the current span as failed. `reason` is a constant or a class name, never an exception message."""
    span = get_current_span()
    if span.is_recording():
        span.set_attribute("error.type", reason)
        span.set_status(StatusCode.ERROR)


def current_traceparent() -> str | None:
    """Returns the W3C `traceparent` of the current span, to be stored with work that is done later; None without a trace."""
    if _current_tracer.get() is None:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(_TRACEPARENT)


def _span_links(traceparent: str | None) -> list[Link]:
    if traceparent is None:
        return []
    context = get_current_span(_propagator.extract({_TRACEPARENT: traceparent})).get_span_context()
    return [Link(context)] if context.is_valid else []
