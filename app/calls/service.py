"""Reads calls for a tenant. Not aware of HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.calls import ids, repository
from app.calls.models import Call, CallEvent
from app.calls.repository import CallFilter
from app.database import Database
from app.errors import CallNotFound
from app.http.authentication import Caller
from app.twilio.schemas import CALL_SID


@dataclass(frozen=True, slots=True)
class CallService:
    database: Database

    async def get(self, caller: Caller, id_or_sid: str) -> Call:
        async with self.database.begin() as session:
            if CALL_SID.fullmatch(id_or_sid):
                call = await repository.get_call_by_sid(session, id_or_sid, tenant_id=caller.tenant_id)
            else:
                call = await repository.get_call(session, _uuid(id_or_sid), tenant_id=caller.tenant_id)
        if call is None:
            raise CallNotFound
        return call

    async def list(self, caller: Caller, filters: CallFilter, *, limit: int) -> tuple[Sequence[Call], str | None]:
        """Returns a page, newest first, and the cursor of the next page, or None on the last one."""
        async with self.database.begin() as session:
            calls = await repository.list_calls(session, tenant_id=caller.tenant_id, filters=filters, limit=limit + 1)
        return calls[:limit], ids.cursor_of(calls[limit - 1].id) if len(calls) > limit else None

    async def events(self, caller: Caller, id_or_sid: str) -> Sequence[CallEvent]:
        call = await self.get(caller, id_or_sid)
        async with self.database.begin() as session:
            return await repository.list_events(session, call.id)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CallNotFound from None
