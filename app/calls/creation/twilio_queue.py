"""Warns when Twilio queues calls, because they are placed faster than Twilio dials them for the account."""

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog

from app.calls.creation.store import NewCall
from app.calls.models import Call
from app.observability.metrics import TwilioMetrics

logger = structlog.stdlib.get_logger(__name__)

_WARNING_INTERVAL_S: Final = 60.0
# If more accounts than this are remembered, all are forgotten. The log may then warn of an account twice in a minute.
MAX_REMEMBERED_ACCOUNTS: Final = 10_000


class TwilioQueueWatch:
    """Counts in a metric the calls that Twilio put into its own queue, because they came faster than it dials for the account.

    Also logs a warning for such a call, at most one per account and minute.
    """

    def __init__(self, metrics: TwilioMetrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._warned_at: dict[UUID, float] = {}

    def __len__(self) -> int:
        """Returns the number of accounts for which the time of the last warning is remembered."""
        return len(self._warned_at)

    def record_queued_call(self, call: Call | NewCall, *, queue_time_ms: int) -> None:
        """Counts a call that Twilio will dial only after `queue_time_ms`, a value in Twilio's answer to the creation.

        Also logs a warning, at most one per account and minute.
        """
        self._metrics.queued.inc()
        now = self._clock()
        warned_at = self._warned_at.get(call.account_id)
        if warned_at is not None and now - warned_at < _WARNING_INTERVAL_S:
            return
        if len(self._warned_at) >= MAX_REMEMBERED_ACCOUNTS:
            self._warned_at.clear()
        self._warned_at[call.account_id] = now
        logger.warning(
            "twilio_queues_calls",
            call_id=str(call.id),
            tenant_id=call.tenant_id,
            account_sid=call.account_sid,
            queue_time_ms=queue_time_ms,
        )
