"""Reads calls for a tenant. Does not import FastAPI."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.calls import ids, repository
from app.calls.models import Call
from app.calls.repository import CallFilter
from app.database.engine import Database
from app.errors import CallNotFound
from app.http.concurrency import CHUNKS_BEFORE_RESPONSE, ROWS_PER_CHUNK, ConcurrencyLimit, render_rows
from app.tenants.caller import Caller
from app.twilio.schemas import CALL_SID_PATTERN


@dataclass(frozen=True, slots=True)
class CallService:
    database: Database
    read_limit: ConcurrencyLimit

    async def get(self, caller: Caller, id_or_sid: str) -> Call:
        async with self.database.begin() as session:
            if CALL_SID_PATTERN.fullmatch(id_or_sid):
                call = await repository.get_call_by_sid(session, id_or_sid, tenant_id=caller.tenant_id)
            else:
                call = await repository.get_call(session, _parse_uuid(id_or_sid), tenant_id=caller.tenant_id)
        if call is None:
            raise CallNotFound
        return call

    async def list_call_ids(self, caller: Caller, filters: CallFilter, *, limit: int) -> tuple[Sequence[UUID], str | None]:
        """Returns the ids of a page, newest first, and the cursor of the next page. The cursor is None on the last page."""
        async with self.read_limit.admit_request(caller.tenant_id), self.database.begin() as session:
            call_ids = await repository.list_call_ids(session, tenant_id=caller.tenant_id, filters=filters, limit=limit + 1)
        return call_ids[:limit], ids.encode_call_cursor(call_ids[limit - 1]) if len(call_ids) > limit else None

    async def render_calls(
        self, caller: Caller, call_ids: Sequence[UUID], attributes: Sequence[str], render: Callable[[Any], bytes]
    ) -> AsyncIterator[bytes]:
        """Yields chunks of JSON. Each chunk has some of the calls, separated by commas.

        `render` converts a row with the attributes of one call to JSON.
        """
        yielded = 0
        for start in range(0, len(call_ids), ROWS_PER_CHUNK):
            chunk_ids = call_ids[start : start + ROWS_PER_CHUNK]
            has_response_started = yielded >= CHUNKS_BEFORE_RESPONSE
            slot = self.read_limit.admit_request(caller.tenant_id, is_wait_unlimited=has_response_started)
            async with slot, self.database.begin() as session:
                rows = await repository.list_call_rows(session, chunk_ids, attributes, tenant_id=caller.tenant_id)
                chunk = await render_rows(rows, render)
            if chunk:
                yielded += 1
                yield chunk

    async def render_events(self, caller: Caller, call_id: UUID, render: Callable[[Any], bytes]) -> AsyncIterator[bytes]:
        """Yields chunks of JSON. Each chunk has some of the call's events, in order, separated by commas.

        `render` converts an event to JSON.
        """
        after, yielded = None, 0
        while True:
            has_response_started = yielded >= CHUNKS_BEFORE_RESPONSE
            async with self.read_limit.admit_request(caller.tenant_id, is_wait_unlimited=has_response_started):
                async with self.database.begin() as session:
                    events = await repository.list_events(session, call_id, after=after, limit=ROWS_PER_CHUNK)
                    # Read after the events, which leave out the CallSid: an older record may not have it yet.
                    call = await repository.get_call(session, call_id, tenant_id=caller.tenant_id)
                if call is None:
                    raise CallNotFound
                chunk = await render_rows((event.with_all_data(call) for event in events), render)
            if chunk:
                yielded += 1
                yield chunk
            if len(events) < ROWS_PER_CHUNK:
                return
            after = events[-1].at, events[-1].id


def _parse_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CallNotFound from None
