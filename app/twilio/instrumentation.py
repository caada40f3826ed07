"""Count, time and trace each request to Twilio. Labels and attributes hold words of Twilio's API, never what was asked about.

No `traceparent` is sent along: what runs in our cluster is nothing that another company has to know.
"""

import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from app.observability import Metrics
from app.observability.tracing import TimedSpan, describe, fail
from app.twilio.errors import TwilioError, TwilioNotSent, TwilioThrottled

# https://www.twilio.com/docs/voice/api/call-resource: the resources of a call. Below some of them, a stream for example, the
# caller chooses names.
_WORDS = frozenset(
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

_NOT_GOOD = 300  # a good answer that cannot be read is as good as lost
Arguments = ParamSpec("Arguments")


class Watched(Protocol):
    metrics: Metrics


Self = TypeVar("Self", bound=Watched)
Send = Callable[Concatenate[Self, str, Any, str, Arguments], Coroutine[Any, Any, Any]]


def instrumented(send: Send[Self, Arguments]) -> Send[Self, Arguments]:
    """Around a method that sends one request: `send(self, method, access, path, …)`."""

    @wraps(send)
    async def watching(
        self: Self, method: str, access: Any, path: str, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Any:
        operation = operation_of(method, path)
        answer = "interrupted"
        with self.metrics.upstream_in_flight.track_inprogress(), TimedSpan("upstream", f"Twilio {operation}"):
            began = time.perf_counter()
            try:
                result = await send(self, method, access, path, *args, **kwargs)
                answer = "2xx"
            except TwilioError as error:
                answer = _class_of(error)
                fail(error.reason)
                if error.answer:
                    describe({"http.response.status_code": error.answer.status, "callgate.twilio_code": error.answer.code or 0})
                raise
            finally:
                self.metrics.upstream_seconds.labels(operation).observe(time.perf_counter() - began)
                self.metrics.upstream_answers.labels(operation, answer).inc()
                describe({"http.request.method": method, "callgate.answer": answer})
        return result

    return watching


def operation_of(method: str, path: str) -> str:
    """`GET Calls/{}/Recordings`: from a short, fixed set, whatever is asked for."""
    parts = path.partition("?")[0].removesuffix(".json").split("/")
    return f"{method} " + "/".join(part if part in _WORDS else "{}" for part in parts[:5])


def _class_of(error: TwilioError) -> str:
    if isinstance(error, TwilioThrottled):
        return "429"
    if error.answer and error.answer.status >= _NOT_GOOD:
        return f"{error.answer.status // 100}xx"
    return "not_sent" if isinstance(error, TwilioNotSent) else "lost"
