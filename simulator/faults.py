"""The faults that a test can inject into the creation of a call, by name.

A fault acts before the call exists (a refusal or a delay), on the call (it is hidden, or has no callbacks or no price), or on
the answer. Only a refusal prevents the call.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from fastapi.responses import JSONResponse, Response

from simulator.background import BackgroundTaskSet
from simulator.broken_answers import AnswerWithStrayPage, ConnectionResetResponse, HalfAnswer, NoAnswer, SilentOpenConnection
from simulator.callbacks import CallbackScheduler
from simulator.errors import ProxyRefusal, TwilioError, proxy_page
from simulator.store import Call

MAX_SECONDS = 86_400.0
# The proxy's answers with these statuses look like refusals of Twilio.
PROXY_STATUSES = (400, 401, 403, 404, 429)


@dataclass(frozen=True, slots=True)
class FaultContext:
    """The parts of the simulator that a fault may use for its answer: the callbacks, and the connections to keep open."""

    callbacks: CallbackScheduler
    held_connections: BackgroundTaskSet


@dataclass(frozen=True)
class Fault:
    """The base class of the faults that tests inject into the creation of a call.

    A fault of this class itself changes nothing. Subclasses override one or two of the three methods.
    """

    seconds: float = 0

    async def before_accept(self, to: str) -> None:
        """Runs before the call is created. By default does nothing.

        Subclasses raise TwilioError to refuse the creation, or wait to delay it.
        """

    def change_created_call(self, call: Call, now: datetime) -> None:
        """Changes the call that was just created. By default does nothing."""

    async def answer(self, call: Call, created: Response, context: FaultContext) -> Response:
        """Returns the answer to the request that created `call`: by default `created`, the usual answer.

        Subclasses return another answer, or raise TwilioError. The call exists in either case.
        """
        return created


NO_FAULT = Fault()


@dataclass(frozen=True)
class Refuse(Fault):
    """Refuses the creation with one of Twilio's errors. No call is created."""

    code: int = 20500
    sends_retry_after: bool = False

    async def before_accept(self, to: str) -> None:
        raise TwilioError(self.code, to, retry_after_s=round(self.seconds) if self.sends_retry_after else None)


@dataclass(frozen=True)
class ProxyErrorPage(Fault):
    """Refuses the creation with a proxy's error page. No call is created."""

    status: int = 502

    async def before_accept(self, to: str) -> None:
        raise ProxyRefusal(self.status)


class SlowAccept(Fault):
    """Waits `seconds` seconds before it creates the call. The wait is in real time, like a client's timeout."""

    async def before_accept(self, to: str) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class ReplaceAnswer(Fault):
    """Creates the call, but answers with `render(response)` instead of `response`, the usual response."""

    render: Callable[[Response], Response] = lambda created: created

    async def answer(self, call: Call, created: Response, context: FaultContext) -> Response:
        return self.render(created)


@dataclass(frozen=True)
class AcceptThenError(Fault):
    """Creates the call and answers with one of Twilio's errors."""

    code: int = 20500

    async def answer(self, call: Call, created: Response, context: FaultContext) -> Response:
        raise TwilioError(self.code)


class Hang(Fault):
    """Creates the call and never answers; the connection stays open until the client closes it."""

    async def answer(self, call: Call, created: Response, context: FaultContext) -> Response:
        return SilentOpenConnection(context.held_connections)


class DelayedVisibility(Fault):
    """Hides the call from fetch and list for `seconds` seconds of the simulator's clock."""

    def change_created_call(self, call: Call, now: datetime) -> None:
        call.hidden_until = now + timedelta(seconds=self.seconds)


class CallbackBeforeResponse(Fault):
    """Dials the call at once, and answers the request only after the first callbacks were answered or have failed.

    A call that waits in its account's queue is not dialled at once.
    """

    def change_created_call(self, call: Call, now: datetime) -> None:
        if not call.plan.queue_time:
            call.plan = replace(call.plan, dialled_at=now)

    async def answer(self, call: Call, created: Response, context: FaultContext) -> Response:
        await context.callbacks.send_due_callbacks_of(call)
        return created


class CallbackNever(Fault):
    """Sends no callbacks for the call."""

    def change_created_call(self, call: Call, now: datetime) -> None:
        call.subscription = None


class LatePrice(Fault):
    """Gives the call its price `seconds` seconds after its end. `SimulatorConfig.speed` divides this time."""

    def change_created_call(self, call: Call, now: datetime) -> None:
        call.plan = replace(call.plan, price_delay=timedelta(seconds=self.seconds / call.plan.speed))


class PriceNever(Fault):
    """Gives the call no price."""

    def change_created_call(self, call: Call, now: datetime) -> None:
        call.plan = replace(call.plan, price_delay=None)


def _answer_with_proxy_page(status: int) -> ReplaceAnswer:
    return ReplaceAnswer(render=lambda _created: proxy_page(status))


def _first_half(created: Response) -> Response:
    return HalfAnswer(created.body, created.status_code, media_type=JSONResponse.media_type)


def _without_last_byte(created: Response) -> Response:
    return Response(bytes(created.body)[:-1], created.status_code, media_type=JSONResponse.media_type)


def _without_sid(created: Response) -> Response:
    resource = json.loads(bytes(created.body))
    del resource["sid"]
    return JSONResponse(resource, created.status_code)


FAULTS: Mapping[str, Fault] = {
    "accept-then-hang": Hang(),
    "accept-then-reset": ReplaceAnswer(render=lambda _created: ConnectionResetResponse()),
    "accept-then-close": ReplaceAnswer(render=lambda _created: NoAnswer()),
    "accept-then-half-answer": ReplaceAnswer(render=_first_half),
    **{f"accept-then-{status}": _answer_with_proxy_page(status) for status in PROXY_STATUSES},
    "accept-then-500": AcceptThenError(code=20500),
    "accept-then-502": _answer_with_proxy_page(502),
    "accept-then-503": AcceptThenError(code=20503),
    "accept-then-504": _answer_with_proxy_page(504),
    "accept-unreadable": ReplaceAnswer(render=_without_last_byte),
    "accept-without-sid": ReplaceAnswer(render=_without_sid),
    "accept-then-stray": ReplaceAnswer(render=lambda created: AnswerWithStrayPage(created, proxy_page(429))),
    "refuse-429": Refuse(code=20429),
    "refuse-429-retry-after": Refuse(code=20429, seconds=1, sends_retry_after=True),
    "refuse-401": Refuse(code=20003),
    "refuse-403": Refuse(code=20403),
    "refuse-400": Refuse(code=21215),
    **{f"proxy-{status}": ProxyErrorPage(status=status) for status in PROXY_STATUSES},
    "refuse-500": Refuse(code=20500),
    "refuse-503": Refuse(code=20503),
    "slow-accept": SlowAccept(seconds=2),
    "delayed-visibility": DelayedVisibility(seconds=30),
    "callback-before-response": CallbackBeforeResponse(),
    "callback-never": CallbackNever(),
    "late-price": LatePrice(seconds=600),
    "price-never": PriceNever(),
}


def parse_fault(text: str) -> tuple[str, Fault]:
    """Reads the text `NAME` or `NAME;seconds=2.5`, and returns the name and the fault.

    Raises ValueError if there is no such fault, or if the seconds are invalid or not a parameter of this fault.
    """
    name, *parameters = (part.strip() for part in text.split(";"))
    if name not in FAULTS:
        raise ValueError(f"no fault is named {name!r}; there are {', '.join(FAULTS)}")
    fault = FAULTS[name]
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key != "seconds" or not fault.seconds:
            raise ValueError(f"{name} takes no {key!r}")
        fault = replace(fault, seconds=_parse_fault_seconds(value))
    return name, fault


def _parse_fault_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"seconds must be from 0 to {MAX_SECONDS:.0f}")
    return seconds
