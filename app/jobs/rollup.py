"""Computes the counts of calls per minute and hour that the console shows."""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from typing import Final

import structlog

from app.database.connection import Connection
from app.database.engine import Database
from app.rollups import store
from app.rollups.periods import HOUR, MAX_COUNTING_BACKLOG, MINUTE, MINUTE_ROLLUP_RETENTION, DuePeriod, due_periods

logger = structlog.stdlib.get_logger(__name__)

_MAX_STEP_S: Final = 2.0
# With more due periods than this, those before the first call are skipped. So many are due only after an installation, an
# upgrade or a pause.
_MAX_PERIODS_WITHOUT_SKIPPING: Final = 50


@dataclass(frozen=True, slots=True)
class CallCountRollUp:
    """Computes the counts of calls per minute and hour that the console shows."""

    database: Database
    # How long the counts of hours are kept.
    retention_period: timedelta
    # How long calls are kept; None: for ever.
    calls_kept_for: timedelta | None = None
    # Whether Twilio can send callbacks to Callgate.
    has_public_url: bool = field(kw_only=True)

    async def step(self) -> bool:
        """Computes the counts of periods that are due, for about _MAX_STEP_S seconds. Returns whether more periods are due.

        Each period is one minute or one hour. Only one worker does this at a time. A step is one transaction, so all of its
        counts are written or none.
        """
        async with self.database.transaction() as connection:
            progress = await store.lock_rollup_progress(connection, first_span=MAX_COUNTING_BACKLOG)
            if progress is None or progress.now == progress.rolled_until:
                return False
            await store.record_waiting_call_count(connection, progress.now)
            due = due_periods(since=progress.rolled_until, until=progress.now, calls_kept_for=self.calls_kept_for)
            if len(due) > _MAX_PERIODS_WITHOUT_SKIPPING:
                due = await self._skip_periods_before_first_call(connection, due)
            left = await self._roll_up_periods(connection, due)
            await store.record_rollup_progress(connection, left.due_at - MINUTE if left else progress.now)
            kept_for = ((MINUTE, MINUTE_ROLLUP_RETENTION), (HOUR, self.retention_period))
            await store.delete_expired_figures(connection, now=progress.now, kept_for=kept_for)
        return left is not None

    async def _skip_periods_before_first_call(self, connection: Connection, due: list[DuePeriod]) -> list[DuePeriod]:
        """Records that the due periods before the first call contain no calls, in one statement. Returns the other periods."""
        first = await store.first_request_time(connection)
        empty = [each.period for each in due if first is None or each.period.end <= first]
        await store.record_empty_periods(connection, empty)
        return [each for each in due if first is not None and each.period.end > first]

    async def _roll_up_periods(self, connection: Connection, due: list[DuePeriod]) -> DuePeriod | None:
        """Computes the counts of due periods, for about _MAX_STEP_S seconds. Returns the first period that is left.

        Returns None if none is left. If several periods became due at the same time, computes the counts of all or of none.
        """
        began = time.monotonic()
        for index, (_, together) in enumerate(groupby(due, key=lambda each: each.due_at)):
            periods = list(together)
            if index and time.monotonic() - began > _MAX_STEP_S:
                return periods[0]
            for each in periods:
                if not await store.roll_up(connection, each.period, has_public_url=self.has_public_url):
                    logger.warning("rollup_skipped", start=each.period.start.isoformat(), seconds=each.period.length.seconds)
        return None
