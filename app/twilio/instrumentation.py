"""Counts, times and traces each request to Twilio. Labels and attributes contain names of Twilio's API, never SIDs.

Requests to Twilio carry no `traceparent`: the operator's traces are not shared with another company.
"""

import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from app.observability import Metrics
from app.observability.tracing import TimedSpan, annotate_span, mark_span_failed
from app.twilio.errors import TwilioCredentialRejected, TwilioError, TwilioNotSent, TwilioOutcomeUnknown, TwilioThrottled

# The path segments of https://www.twilio.com/docs/voice/api/call-resource. Other segments are SIDs, or names that a client
# chose (of a stream, for example).
_RESOURCE_NAMES = frozenset(
    {
        "Calls",
        "Events",
        "Notifications",
        "Payments",
        "Recordings",
        "Siprec",
        "Streams",
        "Transcriptions",
        "UserDefinedMessageSubscriptions",
        "UserDefinedMessages",
    }
)

Arguments = ParamSpec("Arguments")


class HasMetrics(Protocol):
    metrics: Metrics


Self = TypeVar("Self", bound=HasMetrics)
SendMethod = Callable[Concatenate[Self, str, Any, str, Arguments], Coroutine[Any, Any, Any]]


def instrumented(send: SendMethod[Self, Arguments]) -> SendMethod[Self, Arguments]:
    """Decorates a method that sends one request to Twilio, so that each request is counted, timed and traced.

    The method's first parameters must be `method`, `credential` and `path`.
    """

    @wraps(send)
    async def wrapper(
        self: Self, method: str, credential: Any, path: str, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Any:
        operation = operation_label(method, path)
        answer = "interrupted"
        with self.metrics.twilio.in_flight.track_inprogress(), TimedSpan("upstream", f"Twilio {operation}"):
            began = time.perf_counter()
            try:
                result = await send(self, method, credential, path, *args, **kwargs)
                answer = "2xx"
            except TwilioError as error:
                answer = _outcome_label(error)
                mark_span_failed(error.reason)
                if isinstance(error, TwilioCredentialRejected):
                    self.metrics.twilio.credentials_rejected.inc()
                if error.answer:
                    annotate_span(
                        {"http.response.status_code": error.answer.status, "callgate.twilio_code": error.answer.code or 0}
                    )
                raise
            finally:
                self.metrics.twilio.seconds_series(operation).observe(time.perf_counter() - began)
                self.metrics.twilio.answers_series(operation, answer).inc()
                annotate_span({"http.request.method": method, "callgate.answer": answer})
        return result

    return wrapper


def operation_label(method: str, path: str) -> str:
    """Returns a metric label such as `GET Calls/{}/Recordings`. `{}` stands for a SID, or for a name that a client chose."""
    parts = path.partition("?")[0].removesuffix(".json").split("/")
    return f"{method} " + "/".join(part if part in _RESOURCE_NAMES else "{}" for part in parts[:5])


def _outcome_label(error: TwilioError) -> str:
    if isinstance(error, TwilioThrottled):
        return "429"
    if isinstance(error, TwilioNotSent):
        return "not_sent"
    if error.answer is None:
        return "lost"
    status_class = f"{error.answer.status // 100}xx"
    # An answer that is not in Twilio's format proves nothing. Only a 5xx keeps its status: it shows that some server failed.
    return "lost" if isinstance(error, TwilioOutcomeUnknown) and status_class != "5xx" else status_class
