"""What can be made to go wrong with a creation, by name.

A fault acts before the call comes into being (it is refused, or comes late), on the call (hidden, without
callbacks or price) or on the answer. Only a refusal keeps the call from existing.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from fastapi.responses import JSONResponse, Response

from simulator.background import Background
from simulator.broken_answers import HalfAnswer, NoAnswer, Reset, Silence, Stray
from simulator.callbacks import Callbacks
from simulator.errors import ProxyRefusal, TwilioError, proxy_page
from simulator.store import Call

MAX_SECONDS = 86_400.0
# Those that mean a refusal when Twilio says them.
PROXY_STATUSES = (400, 401, 403, 404, 429)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a fault needs of the simulator."""

    callbacks: Callbacks
    held_connections: Background


@dataclass(frozen=True)
class Fault:
    """One that does nothing; each kind overrides what it is about."""

    seconds: float = 0

    async def before_accept(self, to: str) -> None:
        """Raises TwilioError to refuse the creation."""

    def change(self, call: Call, now: datetime) -> None:
        """Changes the call as it comes into being."""

    async def answer(self, call: Call, created: Response, around: Surroundings) -> Response:
        """What is answered in place of `created`. A TwilioError raised here is an answer, too: the call exists."""
        return created


NO_FAULT = Fault()


@dataclass(frozen=True)
class Refuse(Fault):
    code: int = 20500
    tells_when: bool = False

    async def before_accept(self, to: str) -> None:
        raise TwilioError(self.code, to, retry_after_s=round(self.seconds) if self.tells_when else None)


@dataclass(frozen=True)
class RefuseByProxy(Fault):
    status: int = 502

    async def before_accept(self, to: str) -> None:
        raise ProxyRefusal(self.status)


class SlowAccept(Fault):
    """The wait is real time, as a client's timeout is."""

    async def before_accept(self, to: str) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class Answer(Fault):
    render: Callable[[Response], Response] = lambda created: created

    async def answer(self, call: Call, created: Response, around: Surroundings) -> Response:
        return self.render(created)


@dataclass(frozen=True)
class FailAfterwards(Fault):
    code: int = 20500

    async def answer(self, call: Call, created: Response, around: Surroundings) -> Response:
        raise TwilioError(self.code)


class Hang(Fault):
    """Past any timeout, until the client hangs up."""

    async def answer(self, call: Call, created: Response, around: Surroundings) -> Response:
        return Silence(around.held_connections)


class DelayedVisibility(Fault):
    """Seconds of the clock."""

    def change(self, call: Call, now: datetime) -> None:
        call.hidden_until = now + timedelta(seconds=self.seconds)


class CallbackBeforeResponse(Fault):
    """Leaves the queue at once; the callback about it is answered, or has failed, before the creation is."""

    def change(self, call: Call, now: datetime) -> None:
        call.plan = replace(call.plan, dialled_at=now)

    async def answer(self, call: Call, created: Response, around: Surroundings) -> Response:
        await around.callbacks.send_due_of(call)
        return created


class CallbackNever(Fault):
    def change(self, call: Call, now: datetime) -> None:
        call.subscription = None


class LatePrice(Fault):
    """Call seconds from the end of the call."""

    def change(self, call: Call, now: datetime) -> None:
        call.plan = replace(call.plan, price_delay=timedelta(seconds=self.seconds / call.plan.speed))


class PriceNever(Fault):
    def change(self, call: Call, now: datetime) -> None:
        call.plan = replace(call.plan, price_delay=None)


def _page(status: int) -> Answer:
    return Answer(render=lambda _created: proxy_page(status))


def _half(created: Response) -> Response:
    return HalfAnswer(created.body, created.status_code, media_type=JSONResponse.media_type)


def _unreadable(created: Response) -> Response:
    return Response(bytes(created.body)[:-1], created.status_code, media_type=JSONResponse.media_type)


def _without_sid(created: Response) -> Response:
    resource = json.loads(bytes(created.body))
    del resource["sid"]
    return JSONResponse(resource, created.status_code)


FAULTS: Mapping[str, Fault] = {
    "accept-then-hang": Hang(),
    "accept-then-reset": Answer(render=lambda _created: Reset()),
    "accept-then-close": Answer(render=lambda _created: NoAnswer()),
    "accept-then-half-answer": Answer(render=_half),
    **{f"accept-then-{status}": _page(status) for status in PROXY_STATUSES},
    "accept-then-500": FailAfterwards(code=20500),
    "accept-then-502": _page(502),
    "accept-then-503": FailAfterwards(code=20503),
    "accept-then-504": _page(504),
    "accept-unreadable": Answer(render=_unreadable),
    "accept-without-sid": Answer(render=_without_sid),
    "accept-then-stray": Answer(render=lambda created: Stray(created, proxy_page(429))),
    "refuse-429": Refuse(code=20429),
    "refuse-429-retry-after": Refuse(code=20429, seconds=1, tells_when=True),
    "refuse-401": Refuse(code=20003),
    "refuse-403": Refuse(code=20403),
    "refuse-400": Refuse(code=21215),
    **{f"proxy-{status}": RefuseByProxy(status=status) for status in PROXY_STATUSES},
    "refuse-500": Refuse(code=20500),
    "refuse-503": Refuse(code=20503),
    "slow-accept": SlowAccept(seconds=2),
    "delayed-visibility": DelayedVisibility(seconds=30),
    "callback-before-response": CallbackBeforeResponse(),
    "callback-never": CallbackNever(),
    "late-price": LatePrice(seconds=600),
    "price-never": PriceNever(),
}


def fault_named(text: str) -> tuple[str, Fault]:
    """Reads `NAME` or `NAME;seconds=2.5`. Raises ValueError."""
    name, *parameters = (part.strip() for part in text.split(";"))
    if name not in FAULTS:
        raise ValueError(f"no fault is named {name!r}; there are {', '.join(FAULTS)}")
    fault = FAULTS[name]
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key != "seconds" or not fault.seconds:
            raise ValueError(f"{name} takes no {key!r}")
        fault = replace(fault, seconds=_seconds(value))
    return name, fault


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"seconds must be from 0 to {MAX_SECONDS:.0f}")
    return seconds
