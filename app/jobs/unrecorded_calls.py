"""Reports calls in Twilio's list that Callgate did not place: no record of any tenant has their sid.

Such a call shows that other software uses the account, or that somebody has stolen a credential. Never reports a call that may
belong to a record whose outcome is open.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from app.database.engine import Database
from app.jobs.candidates import API_CALL_DIRECTION, DATE_TOLERANCE, MAX_CLOCK_SKEW, twilio_clock_offset
from app.jobs.store import read_matching_records
from app.observability import Metrics
from app.tenants.cache import IntervalLimit
from app.tenants.directory import TenantDirectory
from app.twilio.addresses import address_key, possible_address_keys
from app.twilio.client import TwilioClient
from app.twilio.schemas import CallResource

logger = structlog.stdlib.get_logger(__name__)

_LOG_INTERVAL_S = 3600.0
_CHECKED_BEFORE_START = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class UnrecordedCallDetector:
    """Counts and logs calls in Twilio's lists that have no record.

    `max_start_delay` is the longest time from an attempt to dial (`pending_since` of the record) until Twilio may start the
    call. `retention_period` is the retention period of records; None if they are never deleted.
    """

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    metrics: Metrics
    max_start_delay: timedelta
    retention_period: timedelta | None
    # After its start, a worker checks only calls of the last hour, so that it does not count all calls of a page again. This
    # time is by the machine's clock.
    _first_since: datetime = field(default_factory=lambda: datetime.now(UTC) - _CHECKED_BEFORE_START)
    # By account SID: all calls that were created until this time, by Twilio's clock, have been checked. So each call is checked
    # once.
    _checked_until: dict[str, datetime] = field(default_factory=dict)
    _not_logged: Counter[UUID] = field(default_factory=Counter)
    _logs: IntervalLimit = field(default_factory=lambda: IntervalLimit(_LOG_INTERVAL_S))

    async def check_page(self, account_id: UUID, page: Sequence[Mapping[str, Any]]) -> None:
        """Reports the calls without a record in `page`, the first page of Twilio's list of the account's calls.

        Checks each call once: when the call is so old that no creation in progress can have started it. Checks nothing if
        Twilio's time is unknown, because no recent answer has shown it: Twilio's clock dates the calls. Raises
        DatabaseUnavailable.
        """
        credentials = await self.directory.active_credentials(account_id)
        offset = await twilio_clock_offset(self.directory, self.twilio, account_id)
        if not credentials or offset is None:
            return
        account_sid = credentials[0].account_sid
        now = datetime.now(UTC) + offset
        checked_until = self._checked_until.get(account_sid, self._first_since + offset)
        # Retention may have deleted the records of earlier calls.
        since = max(checked_until, now - self.retention_period + DATE_TOLERANCE) if self.retention_period else checked_until
        until = now - self.max_start_delay - 2 * MAX_CLOCK_SKEW
        if (entries := _api_calls(page, since=since, until=until)) and (
            unrecorded := await self._sids_without_record(account_sid, entries)
        ):
            self._report(account_id, unrecorded)
        self._checked_until[account_sid] = max(checked_until, until)

    async def _sids_without_record(self, account_sid: str, entries: Mapping[str, CallResource]) -> Sequence[str]:
        """Returns the sids of those entries that belong to no record, and cannot belong to one whose outcome is open.

        Leaves out calls that were created before the account was added to Callgate.
        """
        keys = {sid: address_key(entry.raw["to"]) for sid, entry in entries.items()}
        records = await read_matching_records(self.database, account_sid, sids=list(keys), keys=list(set(keys.values())))
        open_keys = {key for address in records.open_addresses for key in possible_address_keys(address)}
        earliest = records.account_added_at + DATE_TOLERANCE
        return [
            sid
            for sid, entry in entries.items()
            if sid not in records.sids and keys[sid] not in open_keys and entry.date_created and entry.date_created > earliest
        ]

    def _report(self, account_id: UUID, sids: Sequence[str]) -> None:
        """Counts the calls. Logs the number of calls that are not logged yet, at most once an hour for each account."""
        self.metrics.twilio.unrecorded_calls.inc(len(sids))
        self._not_logged[account_id] += len(sids)
        if self._logs.try_acquire(account_id):
            calls = self._not_logged.pop(account_id)
            logger.warning("calls_without_record", account_id=str(account_id), calls=calls, call_sid=sids[0])


def _api_calls(page: Sequence[Mapping[str, Any]], *, since: datetime, until: datetime) -> Mapping[str, CallResource]:
    """Returns the calls of the page that were placed by API requests and have a `to`, by sid.

    Leaves out calls that were created at `since` or earlier, or after `until`.
    """
    candidates = (
        each for each in page if each.get("direction") == API_CALL_DIRECTION and isinstance(to := each.get("to"), str) and to
    )
    entries = (entry for each in candidates if (entry := CallResource.parse_answer(each)) is not None)
    return {entry.sid: entry for entry in entries if entry.date_created and since < entry.date_created <= until}
