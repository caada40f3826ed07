"""Tell tenants of their calls' progress: each event to the URL that was asked for, until the receiver has it.

One receiver that hangs or is dead holds up nobody else: each tenant has its share of what is under way, and a step waits for
no attempt but, when all places are taken, for the first that ends.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog

from app.calls.repository import get_any_call
from app.calls.schemas import CallRecord
from app.database import Database
from app.deliveries import repository
from app.deliveries.messages import Message, Method, Told, message
from app.deliveries.models import Delivery
from app.errors import DatabaseUnavailable
from app.observability import Metrics
from app.observability.tracing import TimedSpan, describe, link, trace
from app.tenants.callbacks import TenantCallbacks
from app.tenants.errors import OperatorError

logger = structlog.stdlib.get_logger(__name__)

AT_ONCE = 64
AT_ONCE_PER_TENANT = 12
# How many of one tenant's are claimed at a time.
SHARE = 4
# Longer than an attempt with its two transactions takes, unless the database is so slow that one may be repeated.
LEASE = timedelta(seconds=45)
PATIENCE = timedelta(days=3)
FIRST_RETRY = timedelta(seconds=5)
# The waits between attempts as multiples of the first: 5 s, 30 s, 2 min, 15 min, 1 h, then every 4 h.
_WAITS = (1, 6, 24, 180, 720)
_LAST_WAIT = 2880
_JITTER = 0.1
# How long a tenant with nothing due may wait to be looked at while another's share is full.
_LOOK_AGAIN_S = 0.5
_GONE = 410


class Outcome(Protocol):
    @property
    def status(self) -> int | None: ...
    @property
    def error(self) -> str | None: ...


class Sends(Protocol):
    """Makes one request and raises nothing for what comes of it (app.deliveries.sender.Sender)."""

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Outcome: ...


def wait_after(failures: int, first: timedelta = FIRST_RETRY) -> timedelta:
    """How long to wait for the next attempt after so many that failed; a little uneven, so that a crowd spreads."""
    wait = _WAITS[failures - 1] if failures <= len(_WAITS) else _LAST_WAIT
    return first * wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret


@dataclass(slots=True)
class Deliverer:
    database: Database
    tenants: TenantCallbacks
    sender: Sends
    metrics: Metrics
    first_retry: timedelta = FIRST_RETRY
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _taken: Counter[str] = field(default_factory=Counter)
    # The tenant with whom the last claim had to end: it is the turn of those beyond. Empty: of all.
    _after: str = ""

    async def step(self) -> bool:
        """Begin what is due and there is room for; False when nothing was. Ends before what it begins."""
        if len(self._running) >= AT_ONCE:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        busy = [tenant for tenant, taken in self._taken.items() if taken > AT_ONCE_PER_TENANT - SHARE]
        room = AT_ONCE - len(self._running)
        async with self.database.begin() as session:
            due = await repository.claim(session, lease=LEASE, room=room, share=SHARE, busy=busy, after=self._after)
        not_all, self._after = self._after, due[-1].tenant_id if len(due) == room else ""
        for delivery in due:
            if not delivery.held:
                self._begin(delivery)
        if held := {delivery.call_id for delivery in due if delivery.held}:
            async with self.database.begin() as session:
                await repository.release(session, held)
        if not due and busy and not not_all:
            # There is more as soon as one of these ends.
            await asyncio.wait(self._running, timeout=_LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        return bool(due or busy or not_all)

    async def drain(self) -> None:
        """Wait for the attempts under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _begin(self, delivery: Delivery) -> None:
        self._taken[delivery.tenant_id] += 1
        task = asyncio.create_task(self._attempt_apart(delivery))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _attempt_apart(self, delivery: Delivery) -> None:
        """Whatever goes wrong with one is its own; it is claimed again when its lease ends."""
        try:
            with trace("deliver", caused_by=None, attributes={"callgate.call_id": str(delivery.call_id)}):
                await self._attempt(delivery)
                async with self.database.begin() as session:
                    await repository.release(session, [delivery.call_id])
        except DatabaseUnavailable:
            pass
        except Exception:
            logger.exception("delivery_broke", call_id=str(delivery.call_id), delivery_id=str(delivery.id))
        finally:
            self._taken[delivery.tenant_id] -= 1
            if not self._taken[delivery.tenant_id]:
                del self._taken[delivery.tenant_id]

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            request = await self._message(delivery)
        except OperatorError:
            logger.error("callback_secret_unreadable", tenant_id=delivery.tenant_id)
            await self._failed(delivery, status=None, error="secret")
            return
        # No `traceparent` goes along: a receiver gets what Twilio would have sent, or what Standard Webhooks say.
        with TimedSpan("receiver"):
            sent = await self.sender.send(request.method, request.url, request.headers, request.body)
            describe({"callgate.result": sent.error or str(sent.status)})
        if sent.status is not None and 200 <= sent.status < 300:
            async with self.database.begin() as session:
                await repository.delivered(session, delivery, status=sent.status)
            self.metrics.deliveries.labels("delivered").inc()
        else:
            await self._failed(delivery, status=sent.status, error=sent.error)

    async def _message(self, delivery: Delivery) -> Message:
        signing = await self.tenants.signing(delivery.tenant_id)
        async with self.database.begin() as session:
            call = await get_any_call(session, delivery.call_id)
        link(call.traceparent if call else None)
        told = Told(
            webhook_id=delivery.webhook_id,
            call_id=str(delivery.call_id),
            sequence=delivery.sequence,
            fields=delivery.fields,
            record=CallRecord.model_validate(call).model_dump(mode="json", by_alias=True) if call else {},
        )
        method: Method = "GET" if delivery.method == "GET" else "POST"
        secret = signing.secret.get_secret_value()
        return message(signing.form, told, method=method, url=delivery.url, secret=secret, at=datetime.now(UTC))

    async def _failed(self, delivery: Delivery, *, status: int | None, error: str | None) -> None:
        wait = wait_after(delivery.attempts + 1, self.first_retry)
        over = status == _GONE or datetime.now(UTC) + wait > delivery.pending_since + PATIENCE
        async with self.database.begin() as session:
            await repository.failed(session, delivery, status=status, error=error, wait=None if over else wait)
        self.metrics.deliveries.labels("gave_up" if over else "failed").inc()
        # The receiver's address is the tenant's own, and may hold a token.
        logger.log(
            logging.WARNING if over else logging.INFO,
            "delivery_given_up" if over else "delivery_failed",
            call_id=str(delivery.call_id),
            delivery_id=str(delivery.id),
            tenant_id=delivery.tenant_id,
            attempts=delivery.attempts + 1,
            status=status,
            error=error,
        )
