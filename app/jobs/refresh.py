"""Keep started calls true: fetch those that are not terminal yet, and terminal ones without a price.

The wait grows with the age of what is waited for, so that a call that lasts, or is never priced, is asked for ever less often.
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
from app.database import Database, Session
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
_LONGEST_WAIT_ACTIVE = timedelta(seconds=60)
_LONGEST_WAIT_PRICE = timedelta(hours=1)
# Twilio ends calls after a day and keeps them queued for at most one; a price comes within minutes or never.
_GIVE_UP_ACTIVE = timedelta(days=3)
_GIVE_UP_PRICE = timedelta(days=1)
# What was never answered costs nothing, as a rule.
_GIVE_UP_PRICE_UNANSWERED = timedelta(minutes=10)
# How many intervals the end of a call may be known before the tenant is told of it without Twilio's callback.
_CALLBACK_PATIENCE = 10

Result = Literal["changed", "unchanged", "gone", "failed"]


@dataclass(frozen=True, slots=True)
class Refresher:
    database: Database
    tenants: TenantDirectory
    twilio: TwilioClient
    metrics: Metrics
    interval: timedelta
    fetch_deadline_s: float

    async def step(self) -> bool:
        """Refresh a batch of due calls; False when there was none."""
        # Longer than all that one refresh can take, so that no other worker does it again meanwhile.
        lease = timedelta(seconds=2 * self.fetch_deadline_s + 30)
        async with self.database.begin() as session:
            due = await leases.claim_refreshes(session, lease=lease, limit=BATCH)
        await run_isolated(due, self._refresh, event="refresh_broke")
        if due:
            async with self.database.begin() as session:
                await leases.release_refreshes(session, due)
        return bool(due)

    async def forget_leases(self) -> bool:
        """Once in a while. Always False."""
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
        """None: never again, unless the tenant has still to be told that the call has ended."""
        if needs_final_delivery(call):
            # The callback, which says more, may still be under way.
            patience = _CALLBACK_PATIENCE * self.interval - _age(call, since=call.end_time)
            if patience > timedelta(0):
                wait = patience if wait is None else min(wait, patience)
            else:
                session.add(final_delivery(call))
        elif call.deleted_at is not None:
            wait = None
        call.refresh_at = None if wait is None else await repository.now(session) + wait

    def _next(self, call: Call) -> timedelta | None:
        if is_complete(call):
            return None
        if call.status in TERMINAL_STATUSES:
            waited = _age(call, since=call.end_time)
            patience = _GIVE_UP_PRICE if call.status == "completed" else _GIVE_UP_PRICE_UNANSWERED
            return _wait(waited / 2, self.interval, _LONGEST_WAIT_PRICE) if waited < patience else None
        waited = _age(call)
        return _wait(waited / 4, self.interval, _LONGEST_WAIT_ACTIVE) if waited < _GIVE_UP_ACTIVE else None

    def _count(self, result: Result) -> None:
        self.metrics.refreshes.labels(result).inc()


def _age(call: Call, *, since: datetime | None = None) -> timedelta:
    return datetime.now(UTC) - (since or call.settled_at or call.created_at)


def _wait(wished: timedelta, shortest: timedelta, longest: timedelta) -> timedelta:
    return min(max(wished, shortest), max(longest, shortest))
