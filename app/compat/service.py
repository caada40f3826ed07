"""Reads started calls for Twilio's paths: one call, updated from Twilio first, and pages of call ids from Callgate's database.

Does not import FastAPI.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog

from app.calls import repository
from app.calls.control import repository as control_repository
from app.calls.models import Call
from app.calls.not_found_at_twilio import is_deleted_at_twilio
from app.calls.progress import has_ended_with_price
from app.calls.upstream_problems import problem_for_change
from app.compat import repository as started_repository
from app.compat.repository import PageCursor, StartedCallFilter
from app.database.engine import Database
from app.errors import CallNotFound
from app.http.concurrency import ConcurrencyLimit
from app.tenants.caller import Caller
from app.tenants.directory import TenantDirectory
from app.twilio.client import TwilioClient, try_credentials
from app.twilio.errors import TwilioCredentialRejected, TwilioError

logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FetchedCall:
    """A call's record, and its age if it could not be updated from Twilio.

    `age` is the time since the last event from Twilio, and `reason` is the reason of the TwilioError. Both are None if the
    record is current.
    """

    call: Call
    age: timedelta | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CallIdPage:
    """One page of call ids, the newest first. Also says whether newer and older calls exist outside the page."""

    call_ids: Sequence[UUID]
    has_newer: bool
    has_older: bool


@dataclass(frozen=True, slots=True)
class StartedCallReader:
    """Reads calls that Twilio has created at Callgate's request: those whose record has the execution `started`.

    `read_limit` limits how many lists are read from the database at the same time. `request_limit` limits how many calls are
    fetched from Twilio at the same time. Other services may share these limits. `deadline_s` is the time limit of one request
    to Twilio, in seconds.
    """

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    deadline_s: float
    read_limit: ConcurrencyLimit
    request_limit: ConcurrencyLimit

    async def fetch_current_call(self, call: Call) -> FetchedCall:
        """Returns the call's record. Updates it from Twilio first, unless the call has ended and has a price.

        If Twilio gives no usable answer, returns the stored record with its age. Raises CallNotFound if the call was deleted at
        Twilio, UpstreamCredentialsRejected if Twilio refuses the credentials, and Overloaded if too many requests of the tenant
        or the process wait for Twilio.
        """
        if has_ended_with_price(call):
            return FetchedCall(call)
        fetch_call = partial(self.twilio.fetch_call, sid=call.sid or "", deadline_s=self.deadline_s)
        try:
            credentials = await self.directory.active_credentials(call.account_id)
            async with self.request_limit.admit_request(call.tenant_id):
                resource = await try_credentials(credentials, fetch_call)
        except TwilioCredentialRejected as error:
            raise problem_for_change(error, {}, call_id=call.id) from error
        except TwilioError as error:
            async with self.database.begin() as session:
                now = await repository.transaction_start_time(session)
                is_deleted = is_deleted_at_twilio(call, error, now=now)
                if is_deleted and (locked := await repository.lock_call(session, call.id)):
                    await repository.mark_deleted(session, locked, by="twilio")
                age = now - await control_repository.last_twilio_event_at(session, call)
            if is_deleted:
                raise CallNotFound from error
            logger.warning("fetch_failed", call_id=str(call.id), call_sid=call.sid, reason=error.reason)
            return FetchedCall(call, age, error.reason)
        async with self.database.begin() as session:
            locked = await repository.lock_call(session, call.id) or call
            await repository.record_resource(session, locked, resource)
        return FetchedCall(locked)

    async def read_page(
        self, caller: Caller, filters: StartedCallFilter, *, cursor: PageCursor | None, size: int
    ) -> CallIdPage:
        """Returns one page of call ids, the newest call first.

        The page has the calls next to the cursor, on its older or newer side. Without a cursor, it is the first page. Reading a
        later page takes no longer than reading the first one.
        """
        async with self.read_limit.admit_request(caller.tenant_id), self.database.begin() as session:
            found = await started_repository.list_started_call_ids(
                session, tenant_id=caller.tenant_id, filters=filters, cursor=cursor, limit=size + 1
            )
        more, call_ids = len(found) > size, found[:size]
        if cursor is not None and cursor.direction == "newer":
            return CallIdPage(call_ids[::-1], has_newer=more, has_older=bool(call_ids))
        return CallIdPage(call_ids, has_newer=cursor is not None and bool(call_ids), has_older=more)
