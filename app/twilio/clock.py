"""Compare this machine's clock with Twilio's, by the `Date` header of its answers (RFC 9110 §6.6.1)."""

import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

import structlog

from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

WARN_BEYOND = timedelta(seconds=60)
TRUSTED_WITHIN = timedelta(minutes=15)
"""With a larger offset, no search of Twilio's list by time proves anything."""
_WARN_EVERY_S = 600.0
_RESOLUTION_S = 1.0


class TwilioClock:
    """The last known offset of each server that answers as Twilio, by its base URL; None stands for the usual one."""

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.twilio_clock_offset
        self._offsets: dict[str | None, timedelta] = {}
        self._warned_at = -_WARN_EVERY_S

    def observe(self, base_url: str | None, date: str | None, *, sent_at: float, received_at: float) -> None:
        """`date` was written after `sent_at` and before `received_at`, both of this machine's clock; None says nothing."""
        answered_at = _timestamp(date) if date else None
        if answered_at is None:
            return
        # What the time under way and the header's whole seconds may explain is no difference.
        ahead = max(answered_at - received_at, 0.0) or min(answered_at + _RESOLUTION_S - sent_at, 0.0)
        self._offsets[base_url] = timedelta(seconds=ahead)
        self._gauge.set((self.largest_offset or timedelta(0)).total_seconds())
        if abs(ahead) > WARN_BEYOND.total_seconds() and time.monotonic() - self._warned_at > _WARN_EVERY_S:
            self._warned_at = time.monotonic()
            logger.warning(
                "twilio_clock_differs", base_url=base_url, ahead_s=round(ahead), do="synchronise this machine with NTP"
            )

    @property
    def largest_offset(self) -> timedelta | None:
        return max(self._offsets.values(), key=abs, default=None)

    def offset(self, base_url: str | None) -> timedelta | None:
        """How far this server's clock is ahead of this machine's; None: it has not told its time."""
        return self._offsets.get(base_url)


@lru_cache(maxsize=16)  # the same text for a second
def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
