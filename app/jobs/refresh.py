"""Refresh started calls from Twilio until they have ended and have a price.

The interval grows with the age of the call, so long calls and calls that never get a price cost few requests.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal

import structlog

from app.calls import leases, repository
from app.calls.missing import is_gone, is_missing
from app.calls.models import Call
from app.calls.progress import is_complete, take_resource
from app.database.engine import Database, Session
from app.deliveries.models import Delivery
from app.deliveries.outbox import final_delivery, needs_final_delivery
from app.jobs.isolation import run_isolated
from app.observability import Metrics
from app.observability.tracing import trace
from app.tenants.directory import TenantDirectory
from app.twilio.client import TwilioClient, first_accepted
from app.twilio.errors import TwilioError
from app.twilio.schemas import TERMINAL_STATUSES, CallResource

logger = structlog.stdlib.get_logger(__name__)

BATCH = 20
_MAX_WAIT_ACTIVE = timedelta(seconds=60)
_MAX_WAIT_PRICE = timedelta(hours=1)
# Twilio queues a call for at most a day, and ends it after at most another. A price appears within minutes or never.
_GIVE_UP_ACTIVE = timedelta(days=3)
_GIVE_UP_PRICE = timedelta(days=1)
# Calls that were not answered usually cost nothing.
_GIVE_UP_PRICE_UNANSWERED = timedelta(minutes=10)
# Refresh intervals to wait for Twilio's callback after the end of a call, before the end is delivered without it.
_CALLBACK_WAIT_INTERVALS = 10

RefreshResult = Literal["changed", "unchanged", "gone", "failed"]


@dataclass(frozen=True, slots=True)
class Refresher:
    database: Database
    tenants: TenantDirectory
    twilio: TwilioClient
    metrics: Metrics
    interval: timedelta
    fetch_deadline_s: float

    async def step(self) -> bool:
        """Refreshes a batch of due calls. Returns false if none was due."""
        # Longer than a refresh can take, so that no other worker repeats it meanwhile.
        lease = timedelta(seconds=2 * self.fetch_deadline_s + 30)
        async with self.database.begin() as session:
            due = await leases.claim_refreshes(session, lease=lease, limit=BATCH)
        await run_isolated(due, self._refresh, event="refresh_crashed")
        if due:
            async with self.database.begin() as session:
                await leases.release_refreshes(session, due)
        return bool(due)

    async def delete_lapsed_leases(self) -> bool:
        """Deletes lapsed leases and returns false."""
        async with self.database.begin() as session:
            await leases.forget_lapsed(session)
        return False

    async def _refresh(self, call: Call) -> None:
        with trace("refresh", caused_by=call.traceparent, attributes={"callgate.call_id": str(call.id)}):
            try:
                resource = await self._fetch(call)
            except TwilioError as error:
                status = error.answer.status if error.answer else None
                level = logging.INFO if is_missing(error) else logging.WARNING
                logger.log(level, "refresh_failed", call_id=str(call.id), call_sid=call.sid, reason=error.reason, status=status)
                await self._postpone(call, gone=is_gone(call, error))
            else:
                await self._take(call, resource)

    async def _fetch(self, call: Call) -> CallResource:
        ask = partial(self.twilio.fetch_call, sid=call.sid or "", deadline_s=self.fetch_deadline_s)
        return await first_accepted(await self.tenants.credentials(call.account_id), ask)

    async def _take(self, call: Call, resource: CallResource) -> None:
        async with self.database.begin() as session:
            locked = await repository.lock_call(session, call.id)
            if locked is None:
                return
            events = take_resource(locked, resource)
            for type_, data in events:
                await repository.add_event(session, call.id, type_, data)
            await self._schedule(session, locked, self._next(locked))
        self._count("changed" if events else "unchanged")

    async def _postpone(self, call: Call, *, gone: bool) -> None:
        async with self.database.begin() as session:
            locked = await repository.lock_call(session, call.id)
            if locked is not None and gone:
                await repository.mark_deleted(session, locked, by="twilio")
            if locked is not None:
                await self._schedule(session, locked, None if gone else self._next(locked))
        self._count("gone" if gone else "failed")

    async def _schedule(self, session: Session, call: Call, wait: timedelta | None) -> None:
        """Sets the time of the next refresh. `wait` None ends the refreshes, unless the call's end still needs a delivery."""
        if needs_final_delivery(call):
            # Twilio's callback, which has more fields, may still arrive.
            remaining = _CALLBACK_WAIT_INTERVALS * self.interval - _age(call, since=call.end_time)
            if remaining > timedelta(0):
                wait = remaining if wait is None else min(wait, remaining)
            else:
                session.add(Delivery(**final_delivery(call)))
        elif call.deleted_at is not None:
            wait = None
        call.refresh_at = None if wait is None else await repository.now(session) + wait

    def _next(self, call: Call) -> timedelta | None:
        """Returns the wait for the next refresh; None if the call needs no more."""
        if is_complete(call):
            return None
        if call.status in TERMINAL_STATUSES:
            waited = _age(call, since=call.end_time)
            give_up_after = _GIVE_UP_PRICE if call.status == "completed" else _GIVE_UP_PRICE_UNANSWERED
            return _clamp(waited / 2, self.interval, _MAX_WAIT_PRICE) if waited < give_up_after else None
        waited = _age(call)
        return _clamp(waited / 4, self.interval, _MAX_WAIT_ACTIVE) if waited < _GIVE_UP_ACTIVE else None

    def _count(self, result: RefreshResult) -> None:
        self.metrics.calls.refreshes.labels(result).inc()


def _age(call: Call, *, since: datetime | None = None) -> timedelta:
    return datetime.now(UTC) - (since or call.settled_at or call.created_at)


def _clamp(wait: timedelta, shortest: timedelta, longest: timedelta) -> timedelta:
    return min(max(wait, shortest), max(longest, shortest))
