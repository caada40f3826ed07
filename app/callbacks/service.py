"""Take a status callback: verify it, bring its call up to date, write what the tenant is to be told. Not aware of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from app.callbacks.fields import Fields
from app.callbacks.progress import Callback, Result, note_sequence, take_callback
from app.callbacks.signature import is_genuine, is_signature
from app.callbacks.untagged import UntaggedCallbacks
from app.calls import repository
from app.calls.callback_urls import CallbackUrls, tag_in
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database import Database, Session
from app.database.batcher import LOCKED, Batcher, Busy
from app.deliveries.outbox import delivery_for
from app.errors import CallbackForged, CallNotFound, MalformedBody
from app.observability import Metrics
from app.observability.context import bind
from app.observability.tracing import link
from app.tenants.directory import TenantDirectory
from app.twilio.schemas import storable

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """A request that claims to be Twilio's. `path` is with its query; `posted` are those fields that are not part of it."""

    call_id: UUID
    account_id: UUID
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


_Refusal = CallNotFound | MalformedBody


class CallbackService:
    """Checks in this order, each of which costs more than the one before: the form of the signature, the tag, the signature."""

    def __init__(
        self,
        *,
        database: Database,
        tenants: TenantDirectory,
        settlement: Settlement,
        metrics: Metrics,
        public_url: str | None,
        urls: CallbackUrls | None,
        untagged: UntaggedCallbacks,
    ) -> None:
        self._database = database
        self._tenants = tenants
        self._settlement = settlement
        self._metrics = metrics
        self._public_url = public_url
        self._urls = urls
        self._untagged = untagged
        self._taking: Batcher[Received, _Taken | _Refusal] = Batcher(self._take_all, max_batch=50)

    async def admit(self, call_id: UUID, query: str, signature: str) -> UUID:
        """The account whose auth tokens sign this call's callbacks.

        Raises CallbackForged without having asked Postgres, whatever the call: for a signature that is none, and for a tag
        that is not ours.
        """
        if not is_signature(signature):
            raise self._refused("unsigned")
        tag = tag_in(query)
        if tag is None:
            account_id = await self._untagged.account_of(call_id)
        else:
            account_id = self._urls.account_of(call_id, tag) if self._urls else None
        if account_id is None:
            raise self._refused("untagged")
        return account_id

    async def take(self, received: Received) -> None:
        """One short transaction, shared with those who come at the same moment; `received` was admitted.

        Raises CallNotFound, CallbackForged or MalformedBody, and then has changed nothing.
        """
        tokens = await self._tenants.auth_tokens(received.account_id)
        if self._public_url is None or not is_genuine(
            self._public_url + received.path, received.posted, received.signature, tokens
        ):
            logger.warning("callback_forged", call_id=str(received.call_id))
            raise self._refused("forged")
        taken = await self._taking.submit(received)
        if not isinstance(taken, _Taken):
            self._metrics.callbacks.labels(_RESULTS[type(taken)]).inc()
            raise taken
        link(taken.traceparent)
        bind(tenant_id=taken.tenant_id, call_id=str(received.call_id), call_sid=taken.call_sid)
        self._metrics.callbacks.labels(taken.result).inc()

    def _refused(self, result: str) -> CallbackForged:
        self._metrics.callbacks.labels(result).inc()
        bind(callback=result)
        return CallbackForged()

    async def _take_all(self, batch: Sequence[Received]) -> list[_Taken | _Refusal | Busy]:
        async with self._database.begin() as session:
            calls, locked = await repository.lock_calls(session, {received.call_id for received in batch})
            return [
                LOCKED if received.call_id in locked else await self._take(session, calls.get(received.call_id), received)
                for received in batch
            ]

    async def _take(self, session: Session, call: Call | None, received: Received) -> _Taken | _Refusal:
        """`call` is locked: of two callbacks at the same moment, here or in another replica, the second sees the first's."""
        if call is None or call.account_id != received.account_id:
            return CallNotFound()
        callback = Callback.read(storable(received.fields.plain()), account_sid=call.account_sid)
        if callback is None:
            return MalformedBody("The callback names no CallSid, or another account's call.")
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


_RESULTS = {CallNotFound: "unknown_call", MalformedBody: "malformed"}
