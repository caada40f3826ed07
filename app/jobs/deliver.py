"""Delivers the events of calls to tenants' URLs. Retries until the receiver accepts a delivery or it is given up.

A tenant whose receiver hangs or is down does not delay others: the attempts in flight are limited for each tenant. If
MAX_CONCURRENT_ATTEMPTS are in flight, a step waits until the first of them ends.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import structlog

from app.calls.schemas import CallRecord
from app.database.batcher import Batcher
from app.database.engine import Database
from app.database.partitions import MonthRange
from app.deliveries.lookups import MAX_LOOKUPS_PER_TENANT
from app.deliveries.requests import DeliveryContent, DeliveryRequest, build_request
from app.deliveries.retries import FIRST_RETRY_DELAY, is_delivered, retry_delay_or_give_up
from app.deliveries.sender import SendResult
from app.deliveries.store import ClaimedDelivery, DeliveryAttempt, claim_deliveries, record_attempts
from app.errors import DatabaseUnavailable
from app.jobs.wake import debounce_wake
from app.observability import Metrics
from app.observability.tracing import TimedSpan, annotate_span, trace_background_work
from app.tenants.callback_settings import CallbackMethod
from app.tenants.delivery_signing import SigningSettingsCache
from app.tenants.errors import AdministrationError

logger = structlog.stdlib.get_logger(__name__)

MAX_CONCURRENT_ATTEMPTS = 64
MAX_CONCURRENT_PER_TENANT = MAX_LOOKUPS_PER_TENANT
# Deliveries claimed per tenant in one batch.
MAX_CLAIMED_PER_TENANT = 6
# Longer than an attempt and the write of its result take. If the database is slower, the attempt may be repeated.
DELIVERY_LEASE = timedelta(seconds=45)
# How long results are gathered for one commit. It delays the next event of the same call if that event was claimed before the
# attempt ended, or is claimed by another worker. A worker that is killed meanwhile loses these results, so their deliveries are
# sent again.
_GATHER_RESULTS_S = 0.1
# Deliveries that were written within this time are claimed at once when they are due. Older ones are due only if they were sent
# again by a person or if no worker ran; they are looked for less often, because that reads all partitions.
_RECENT_DELIVERY_AGE = timedelta(days=8)
_MAX_CLOCK_DIFFERENCE = timedelta(days=1)
_OLD_DELIVERY_SCAN_INTERVAL_S = 2.0


class DeliveryRequestSender(Protocol):
    """Sends one HTTP request, and returns failures instead of raising them. DeliveryHttpClient does this."""

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, tenant_id: str) -> SendResult: ...


def recent_delivery_months(now: datetime) -> MonthRange:
    """Returns the months that each search for due deliveries reads: from the month of eight days ago to that of tomorrow.

    Deliveries of other months are searched for less often, because reading all months takes longer.
    """
    return MonthRange.from_first_to_last(now - _RECENT_DELIVERY_AGE, now + _MAX_CLOCK_DIFFERENCE)


@dataclass(slots=True)
class DeliverySender:
    """Sends due deliveries (webhooks about events of calls) to the URLs of tenants, and records the results."""

    database: Database
    signing: SigningSettingsCache
    http_client: DeliveryRequestSender
    metrics: Metrics
    first_retry: timedelta = FIRST_RETRY_DELAY
    recheck_interval_s: float = 0.5
    """While a tenant has nearly as many attempts as it may have, due deliveries are looked for at least this often."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Is set when deliveries may have become due."""
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _in_flight: Counter[str] = field(default_factory=Counter)
    # Deliveries that were delivered or given up, and whose results are not recorded yet.
    _finished_delivery_ids: set[UUID] = field(default_factory=set)
    # The tenant at which the last claim reached its limit; the next claim starts after it. Empty: start with the first.
    _last_claimed_tenant_id: str = ""
    # When older deliveries are looked for, by the event loop's clock.
    _next_full_scan_at: float = 0.0
    _result_batcher: Batcher[DeliveryAttempt, None] = field(init=False)

    def __post_init__(self) -> None:
        self._result_batcher = Batcher(
            self._record_attempts,
            max_batch=MAX_CONCURRENT_ATTEMPTS,
            gather_s=_GATHER_RESULTS_S,
            gather_max_items=MAX_CLAIMED_PER_TENANT,
        )

    async def step(self) -> bool:
        """Starts attempts for due deliveries, as many as may be in flight in all and for each tenant.

        Does not wait for these attempts to end. Returns whether more deliveries may be due now. If the end of an attempt makes
        another delivery of the same call due, the event `wake` is set, so that the worker runs the next step soon.
        """
        if len(self._running) >= MAX_CONCURRENT_ATTEMPTS:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        busy = [
            tenant for tenant, count in self._in_flight.items() if count > MAX_CONCURRENT_PER_TENANT - MAX_CLAIMED_PER_TENANT
        ]
        free = MAX_CONCURRENT_ATTEMPTS - len(self._running)
        due = await self._claim_due_deliveries(limit=free, busy=busy)
        started_after, self._last_claimed_tenant_id = (
            self._last_claimed_tenant_id,
            due[-1].tenant_id if len(due) == free else "",
        )
        for delivery in due:
            if not delivery.held:
                self._start_attempt(delivery)
        if held := [delivery for delivery in due if delivery.held]:
            await self._record_attempts([], waiting_deliveries=held)
        if not due and busy and not started_after and self._running:
            await self._wait_while_tenants_are_busy()
        most = max(Counter(delivery.tenant_id for delivery in due).values(), default=0)
        return most == MAX_CLAIMED_PER_TENANT or len(due) == free or bool(busy or started_after)

    async def _wait_while_tenants_are_busy(self) -> None:
        """Waits for `recheck_interval_s`, or until an attempt ends or `wake` is set. Then other deliveries may be due."""
        woken = asyncio.create_task(self.wake.wait())
        try:
            await asyncio.wait({woken, *self._running}, timeout=self.recheck_interval_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if self.wake.is_set():
            await debounce_wake(self.wake)

    async def _claim_due_deliveries(self, *, limit: int, busy: Sequence[str]) -> list[ClaimedDelivery]:
        """Reserves at most `limit` due deliveries for this worker, and returns them. Leaves out the tenants in `busy`.

        Normally looks only at deliveries of recent months. Looks at all months every _OLD_DELIVERY_SCAN_INTERVAL_S seconds, and
        again in the next call if it has found deliveries of older months.
        """
        recent, clock = recent_delivery_months(datetime.now(UTC)), asyncio.get_running_loop().time()
        is_limited = clock < self._next_full_scan_at
        due = await claim_deliveries(
            self.database,
            months=recent if is_limited else None,
            lease=DELIVERY_LEASE,
            limit=limit,
            per_tenant=MAX_CLAIMED_PER_TENANT,
            busy_tenant_ids=busy,
            finished_delivery_ids=self._finished_delivery_ids,
            after_tenant_id=self._last_claimed_tenant_id,
        )
        if not is_limited and all(delivery.at in recent for delivery in due):
            self._next_full_scan_at = clock + _OLD_DELIVERY_SCAN_INTERVAL_S
        return due

    async def drain(self) -> None:
        """Waits until all attempts in flight have ended."""
        while self._running:
            await asyncio.wait(self._running)

    def _start_attempt(self, delivery: ClaimedDelivery) -> None:
        self._in_flight[delivery.tenant_id] += 1
        task = asyncio.create_task(self._attempt_and_log_errors(delivery))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _attempt_and_log_errors(self, delivery: ClaimedDelivery) -> None:
        """Tries once to deliver. Errors are logged and not raised.

        After an error, the delivery is tried again when its lease, the reservation for this worker, ends.
        """
        try:
            with trace_background_work(
                "deliver", caused_by=delivery.traceparent, attributes={"callgate.call_id": str(delivery.call_id)}
            ):
                await self._attempt_delivery(delivery)
        except DatabaseUnavailable:
            pass
        except Exception:
            logger.exception("delivery_crashed", call_id=str(delivery.call_id), delivery_id=str(delivery.id))
        finally:
            self._in_flight[delivery.tenant_id] -= 1
            if not self._in_flight[delivery.tenant_id]:
                del self._in_flight[delivery.tenant_id]

    async def _attempt_delivery(self, delivery: ClaimedDelivery) -> None:
        if delivery.fields is None or (delivery.url is None and delivery.record is None):
            await self._record_result(delivery, SendResult(None, None), error="deleted", is_last=True)
            return
        # A call without a URL whose record exists is not deleted: the empty URL fails as `invalid_url`, and a later attempt may
        # find a URL.
        try:
            request = await self._build_request(delivery, url=delivery.url or "", fields=delivery.fields)
        except AdministrationError:
            logger.error("callback_secret_unreadable", tenant_id=delivery.tenant_id)
            await self._record_result(delivery, SendResult(None, None), error="secret")
            return
        # Send no `traceparent`: a receiver gets exactly the request of Twilio or of Standard Webhooks.
        with TimedSpan("receiver"):
            sent = await self.http_client.send(
                request.method, request.url, request.headers, request.body, tenant_id=delivery.tenant_id
            )
            annotate_span({"callgate.result": sent.error or str(sent.status)})
        await self._record_result(delivery, sent, error=sent.error)

    async def _build_request(self, delivery: ClaimedDelivery, *, url: str, fields: Mapping[str, str]) -> DeliveryRequest:
        signing = await self.signing.settings_of_tenant(delivery.tenant_id)
        content = DeliveryContent(
            webhook_id=delivery.webhook_id,
            event=delivery.event,
            call_id=str(delivery.call_id),
            sequence=delivery.sequence,
            fields=fields,
            record=CallRecord.model_validate(delivery.record) if signing.callback_format == "json" and delivery.record else {},
        )
        method: CallbackMethod = "GET" if delivery.method == "GET" else "POST"
        secret = signing.secret.get_secret_value()
        return build_request(signing.callback_format, content, method=method, url=url, secret=secret, at=datetime.now(UTC))

    async def _record_result(
        self, delivery: ClaimedDelivery, sent: SendResult, *, error: str | None, is_last: bool = False
    ) -> None:
        """Records the result of an attempt, and when to try again. `error` is the reason if the receiver gave no answer.

        With `is_last`, a failed delivery is given up now, because no later attempt can succeed.
        """
        attempts = delivery.attempts + 1
        if is_delivered(sent.status):
            await self._record_in_batch(
                DeliveryAttempt(delivery, is_delivered=True, status=sent.status, error=None, retry_in=None)
            )
            self.metrics.callbacks.deliveries.labels("delivered").inc()
            return
        wait = None if is_last else retry_delay_or_give_up(sent.status, attempts, delivery.pending_since, self.first_retry)
        is_over = wait is None
        await self._record_in_batch(
            DeliveryAttempt(delivery, is_delivered=False, status=sent.status, error=error, retry_in=wait)
        )
        self.metrics.callbacks.deliveries.labels("gave_up" if is_over else "failed").inc()
        # Do not log the URL: it may contain a token of the tenant.
        logger.log(
            logging.WARNING if is_over else logging.INFO,
            "delivery_given_up" if is_over else "delivery_failed",
            call_id=str(delivery.call_id),
            delivery_id=str(delivery.id),
            tenant_id=delivery.tenant_id,
            attempts=attempts,
            status=sent.status,
            error=error,
        )

    async def _record_in_batch(self, attempt: DeliveryAttempt) -> None:
        """Records the result of the attempt, in one transaction with the results of other attempts. Returns after the commit.

        Later events of the call may wait until this delivery is made or given up. If it is now, the commit makes those events
        due that are already marked as waiting. Events that this worker claims before the commit do not wait for it.
        """
        if attempt.retry_in is None:
            self._finished_delivery_ids.add(attempt.delivery.id)
        try:
            await self._result_batcher.submit(attempt)
        finally:
            self._finished_delivery_ids.discard(attempt.delivery.id)

    async def _record_attempts(
        self, attempts: Sequence[DeliveryAttempt], *, waiting_deliveries: Sequence[ClaimedDelivery] = ()
    ) -> list[None]:
        if await record_attempts(self.database, attempts, held=waiting_deliveries):
            self.wake.set()
        return [None] * len(attempts)
