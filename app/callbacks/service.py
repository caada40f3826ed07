"""Take a status callback: verify it, bring its call up to date, write what the tenant is to be told. Not aware of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.callbacks.fields import Fields
from app.callbacks.progress import Callback, Result, note_sequence, take_callback
from app.callbacks.signature import is_genuine
from app.calls import repository
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database import Database, Session
from app.database.batcher import Batcher
from app.deliveries.outbox import delivery_for
from app.errors import CallbackForged, CallNotFound, MalformedBody
from app.observability import Metrics
from app.observability.context import note
from app.observability.tracing import link
from app.tenants.service import TenantService
from app.twilio.schemas import storable

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A request that claims to be Twilio's. `path` is with its query; `posted` are those fields that are not part of it."""

    call_id: UUID
    path: str
    fields: Fields
    posted: Fields
    signature: str


@dataclass(frozen=True, slots=True)
class _Taken:
    result: Result
    traceparent: str | None
    tenant_id: str
    call_sid: str | None


_Refusal = CallNotFound | CallbackForged | MalformedBody


class CallbackService:
    def __init__(
        self, database: Database, tenants: TenantService, settlement: Settlement, metrics: Metrics, public_url: str | None
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._settlement = settlement
        self._metrics = metrics
        self._public_url = public_url
        self._taking = Batcher(self._take_all, most=50)

    async def take(self, received: Received) -> None:
        """One short transaction, shared with those who come at the same moment.

        Raises CallNotFound, CallbackForged or MalformedBody, and then has changed nothing.
        """
        taken = await self._taking.submit(received)
        if isinstance(taken, _Taken):
            link(taken.traceparent)
            note(tenant_id=taken.tenant_id, call_id=str(received.call_id), call_sid=taken.call_sid)
            self._metrics.callbacks.labels(taken.result).inc()
            return
        self._metrics.callbacks.labels(_RESULTS[type(taken)]).inc()
        if isinstance(taken, CallbackForged):
            logger.warning("callback_forged", call_id=str(received.call_id))
        raise taken

    async def _take_all(self, batch: Sequence[Received]) -> list[_Taken | _Refusal]:
        async with self._database.begin() as session:
            calls = await repository.get_any_calls(session, {received.call_id for received in batch})
            judged = [await self._judge(session, calls.get(received.call_id), received) for received in batch]
            genuine = {one.call_id for one, callback in zip(batch, judged, strict=True) if isinstance(callback, Callback)}
            # Only now: what nobody has signed must not hold up those who wait for the rows.
            locked = await repository.lock_calls(session, genuine)
            return [
                await self._take(session, locked.get(received.call_id), callback)
                if isinstance(callback, Callback)
                else callback
                for received, callback in zip(batch, judged, strict=True)
            ]

    async def _judge(self, session: Session, call: Call | None, received: Received) -> Callback | _Refusal:
        if call is None:
            return CallNotFound()
        tokens = await self._tenants.auth_tokens(session, call.account_id)
        if self._public_url is None or not is_genuine(
            self._public_url + received.path, received.posted, received.signature, tokens
        ):
            return CallbackForged()
        callback = Callback.read(storable(received.fields.plain()), account_sid=call.account_sid)
        return callback or MalformedBody("The callback names no CallSid, or another account's call.")

    async def _take(self, session: Session, call: Call | None, callback: Callback) -> _Taken | _Refusal:
        """`call` is locked: of two callbacks at the same moment, here or in another replica, the second sees the first's."""
        if call is None:
            return CallNotFound()
        news = take_callback(call, callback)
        for type_, data in news.events:
            await repository.add_event(session, call.id, type_, data)
        if news.result != "duplicate" and call.sid != callback.resource.sid:
            await self._settlement.started(session, call, callback.resource, by="callback", data={})
            if call.sid == callback.resource.sid:
                note_sequence(call, callback)
        if news.result != "duplicate" and call.sid == callback.resource.sid:
            status, fields, sequence = callback.resource.status, callback.fields, callback.sequence
            if delivery := delivery_for(call, status=status, fields=fields, sequence=sequence):
                session.add(delivery)
        return _Taken(news.result, call.traceparent, call.tenant_id, call.sid)


_RESULTS = {CallNotFound: "unknown_call", CallbackForged: "forged", MalformedBody: "malformed"}
