"""Take a status callback: verify it, bind the call that it names, and answer quickly. Not aware of HTTP."""

from dataclasses import dataclass
from uuid import UUID

import structlog

from app.callbacks.fields import Fields
from app.callbacks.signature import is_genuine
from app.calls import repository
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database import Database, Session
from app.errors import CallbackForged, CallNotFound, MalformedBody
from app.observability import Metrics
from app.observability.tracing import link
from app.tenants.service import TenantService
from app.twilio.schemas import CALL_SID, CallResource, storable

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
            call = await repository.get_any_call(session, call_id)
            if call is None:
                self.metrics.callbacks.labels("unknown_call").inc()
                raise CallNotFound
            link(call.traceparent)
            await self._verify(session, call, path, posted, signature)
            structlog.contextvars.bind_contextvars(tenant_id=call.tenant_id, call_id=str(call.id), call_sid=call.sid)
            # Only now: what nobody has signed must not hold up those who wait for the row.
            locked = await repository.lock_call(session, call_id)
            await self._record(session, locked or call, fields)
        self.metrics.callbacks.labels("taken").inc()

    async def _verify(self, session: Session, call: Call, path: str, posted: Fields, signature: str) -> None:
        tokens = await self.tenants.auth_tokens(session, call.account_id)
        if self.public_url is None or not is_genuine(self.public_url + path, posted, signature, tokens):
            self.metrics.callbacks.labels("forged").inc()
            logger.warning("callback_forged", call_id=str(call.id))
            raise CallbackForged

    async def _record(self, session: Session, call: Call, fields: Fields) -> None:
        told = storable(fields.plain())
        if not CALL_SID.fullmatch(told.get("CallSid", "")) or told.get("AccountSid") != call.account_sid:
            self.metrics.callbacks.labels("malformed").inc()
            raise MalformedBody("The callback names no CallSid, or another account's call.")
        await repository.add_event(session, call.id, "call.callback", told)
        resource = CallResource(
            sid=told["CallSid"],
            status=told.get("CallStatus"),
            direction=told.get("Direction"),
            duration=told.get("CallDuration"),
            api_version=told.get("ApiVersion"),
            raw={},
        )
        await self.settlement.started(session, call, resource, by="callback", data={})
