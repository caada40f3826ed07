"""Deliver the events of calls to tenants' URLs, with retries until the receiver has them.

A receiver that hangs or is down does not delay other tenants: the attempts in flight are limited per tenant. A step waits for
an attempt only if MAX_CONCURRENT are in flight, and then for the first that ends.
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
from app.database.engine import Database
from app.deliveries import repository
from app.deliveries.messages import DeliveryContent, Message, Method, build_message
from app.deliveries.models import Delivery
from app.deliveries.sender import SendResult
from app.errors import DatabaseUnavailable
from app.observability import Metrics
from app.observability.tracing import TimedSpan, annotate, link, trace
from app.tenants.callbacks import TenantCallbacks
from app.tenants.errors import OperatorError

logger = structlog.stdlib.get_logger(__name__)

MAX_CONCURRENT = 64
MAX_CONCURRENT_PER_TENANT = 12
# Deliveries claimed per tenant in one batch.
CLAIM_PER_TENANT = 4
# Longer than an attempt with its two transactions. If the database is slower than that, an attempt may be repeated.
LEASE = timedelta(seconds=45)
GIVE_UP_AFTER = timedelta(days=3)
FIRST_RETRY = timedelta(seconds=5)
# The waits between attempts as multiples of the first: 5 s, 30 s, 2 min, 15 min, 1 h, then every 4 h.
_WAITS = (1, 6, 24, 180, 720)
_LAST_WAIT = 2880
_JITTER = 0.1
# While a tenant is at its limit, the longest delay until newly due deliveries of other tenants are claimed.
_RECHECK_S = 0.5
_GONE = 410


class RequestSender(Protocol):
    """Makes one request, and returns its failures instead of raising them (app.deliveries.sender.Sender)."""

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> SendResult: ...


def wait_after(failures: int, first: timedelta = FIRST_RETRY) -> timedelta:
    """Returns the wait after this many failures, with jitter, so that retries of many deliveries spread out."""
    wait = _WAITS[failures - 1] if failures <= len(_WAITS) else _LAST_WAIT
    return first * wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # no secret


@dataclass(slots=True)
class Deliverer:
    database: Database
    tenants: TenantCallbacks
    sender: RequestSender
    metrics: Metrics
    first_retry: timedelta = FIRST_RETRY
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _in_flight: Counter[str] = field(default_factory=Counter)
    # The tenant at which the last claim reached its limit; the next claim starts after it. Empty: start with the first.
    _after: str = ""

    async def step(self) -> bool:
        """Starts attempts for due deliveries, up to the limits.

        Returns false if nothing was due. Does not wait for the attempts.
        """
        if len(self._running) >= MAX_CONCURRENT:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        busy = [tenant for tenant, count in self._in_flight.items() if count > MAX_CONCURRENT_PER_TENANT - CLAIM_PER_TENANT]
        free = MAX_CONCURRENT - len(self._running)
        async with self.database.begin() as session:
            due = await repository.claim(
                session, lease=LEASE, limit=free, per_tenant=CLAIM_PER_TENANT, busy=busy, after=self._after
            )
        started_after, self._after = self._after, due[-1].tenant_id if len(due) == free else ""
        for delivery in due:
            if not delivery.held:
                self._start(delivery)
        if held := {delivery.call_id for delivery in due if delivery.held}:
            async with self.database.begin() as session:
                await repository.release(session, held)
        if not due and busy and not started_after:
            # A busy tenant may have more to do as soon as one of its attempts ends.
            await asyncio.wait(self._running, timeout=_RECHECK_S, return_when=asyncio.FIRST_COMPLETED)
        return bool(due or busy or started_after)

    async def drain(self) -> None:
        """Waits for the attempts in flight."""
        while self._running:
            await asyncio.wait(self._running)

    def _start(self, delivery: Delivery) -> None:
        self._in_flight[delivery.tenant_id] += 1
        task = asyncio.create_task(self._attempt_isolated(delivery))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _attempt_isolated(self, delivery: Delivery) -> None:
        """Makes an attempt and logs an unexpected error. The delivery is claimed again when its lease ends."""
        try:
            with trace("deliver", caused_by=None, attributes={"callgate.call_id": str(delivery.call_id)}):
                await self._attempt(delivery)
                async with self.database.begin() as session:
                    await repository.release(session, [delivery.call_id])
        except DatabaseUnavailable:
            pass
        except Exception:
            logger.exception("delivery_crashed", call_id=str(delivery.call_id), delivery_id=str(delivery.id))
        finally:
            self._in_flight[delivery.tenant_id] -= 1
            if not self._in_flight[delivery.tenant_id]:
                del self._in_flight[delivery.tenant_id]

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            request = await self._message(delivery)
        except OperatorError:
            logger.error("callback_secret_unreadable", tenant_id=delivery.tenant_id)
            await self._record_failure(delivery, status=None, error="secret")
            return
        # Send no `traceparent`: a receiver gets exactly the request of Twilio or of Standard Webhooks.
        with TimedSpan("receiver"):
            sent = await self.sender.send(request.method, request.url, request.headers, request.body)
            annotate({"callgate.result": sent.error or str(sent.status)})
        if sent.status is not None and 200 <= sent.status < 300:
            async with self.database.begin() as session:
                await repository.record_success(session, delivery, status=sent.status)
            self.metrics.callbacks.deliveries.labels("delivered").inc()
        else:
            await self._record_failure(delivery, status=sent.status, error=sent.error)

    async def _message(self, delivery: Delivery) -> Message:
        signing = await self.tenants.signing(delivery.tenant_id)
        async with self.database.begin() as session:
            call = await get_any_call(session, delivery.call_id)
        link(call.traceparent if call else None)
        content = DeliveryContent(
            webhook_id=delivery.webhook_id,
            call_id=str(delivery.call_id),
            sequence=delivery.sequence,
            fields=delivery.fields,
            record=CallRecord.model_validate(call).model_dump(mode="json", by_alias=True) if call else {},
        )
        method: Method = "GET" if delivery.method == "GET" else "POST"
        secret = signing.secret.get_secret_value()
        return build_message(signing.form, content, method=method, url=delivery.url, secret=secret, at=datetime.now(UTC))

    async def _record_failure(self, delivery: Delivery, *, status: int | None, error: str | None) -> None:
        wait = wait_after(delivery.attempts + 1, self.first_retry)
        is_over = status == _GONE or datetime.now(UTC) + wait > delivery.pending_since + GIVE_UP_AFTER
        async with self.database.begin() as session:
            await repository.record_failure(session, delivery, status=status, error=error, wait=None if is_over else wait)
        self.metrics.callbacks.deliveries.labels("gave_up" if is_over else "failed").inc()
        # Do not log the URL: it may contain a token of the tenant.
        logger.log(
            logging.WARNING if is_over else logging.INFO,
            "delivery_given_up" if is_over else "delivery_failed",
            call_id=str(delivery.call_id),
            delivery_id=str(delivery.id),
            tenant_id=delivery.tenant_id,
            attempts=delivery.attempts + 1,
            status=status,
            error=error,
        )
