"""Take a status callback: verify it, bring its call up to date, write what the tenant is to be told. Not aware of HTTP."""

from dataclasses import dataclass
from uuid import UUID

import structlog

from app.callbacks.fields import Fields
from app.callbacks.outbox import owed_for
from app.callbacks.progress import Callback, Result, note_sequence, take_callback
from app.callbacks.signature import is_genuine
from app.calls import repository
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database import Database, Session
from app.errors import CallbackForged, CallNotFound, MalformedBody
from app.observability import Metrics
from app.tenants.service import TenantService
from app.twilio.schemas import storable

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CallbackService:
    database: Database
    tenants: TenantService
    settlement: Settlement
    metrics: Metrics
    public_url: str | None

    async def take(self, call_id: UUID, path: str, fields: Fields, *, posted: Fields, signature: str) -> None:
        """One short transaction. Raises CallNotFound, CallbackForged or MalformedBody, and then has changed nothing.

        `path` is the request's, with its query; `posted` are those fields that were not part of it.
        """
        async with self.database.begin() as session:
            callback = await self._verify(session, call_id, path, fields, posted=posted, signature=signature)
            # Only now: what nobody has signed must not hold up those who wait for the row.
            call = await repository.lock_call(session, call_id)
            if call is None:
                raise CallNotFound
            result = await self._take(session, call, callback)
        self.metrics.callbacks.labels(result).inc()

    async def _verify(
        self, session: Session, call_id: UUID, path: str, fields: Fields, *, posted: Fields, signature: str
    ) -> Callback:
        call = await repository.get_any_call(session, call_id)
        if call is None:
            self.metrics.callbacks.labels("unknown_call").inc()
            raise CallNotFound
        tokens = await self.tenants.auth_tokens(session, call.account_id)
        if self.public_url is None or not is_genuine(self.public_url + path, posted, signature, tokens):
            self.metrics.callbacks.labels("forged").inc()
            logger.warning("callback_forged", call_id=str(call_id))
            raise CallbackForged
        callback = Callback.read(storable(fields.plain()), account_sid=call.account_sid)
        if callback is None:
            self.metrics.callbacks.labels("malformed").inc()
            raise MalformedBody("The callback names no CallSid, or another account's call.")
        return callback

    async def _take(self, session: Session, call: Call, callback: Callback) -> Result:
        """`call` is locked: of two callbacks at the same moment, here or in another replica, the second sees the first's."""
        news = take_callback(call, callback)
        for type_, data in news.events:
            await repository.add_event(session, call.id, type_, data)
        if news.result != "duplicate" and call.sid != callback.resource.sid:
            await self.settlement.started(session, call, callback.resource, by="callback", data={})
            if call.sid == callback.resource.sid:
                note_sequence(call, callback)
        if news.result != "duplicate" and (delivery := owed_for(call, callback)):
            session.add(delivery)
        return news.result
