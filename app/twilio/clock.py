"""Compares this machine's clock with Twilio's clock, by the `Date` header of Twilio's answers (RFC 9110 §6.6.1)."""

import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

import structlog

from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

MIN_OFFSET_TO_WARN = timedelta(seconds=60)
MAX_TRUSTED_OFFSET = timedelta(minutes=15)
"""If Twilio's clock differs by more than this, a search of its call list by time cannot prove that a call is missing."""
_WARN_EVERY_S = 600.0
_DATE_RESOLUTION_S = 1.0


class TwilioClock:
    """Remembers the offset of each Twilio server's clock: how far it was ahead of this machine's clock at the last measurement.

    Servers are identified by base URL. None is the default server.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.twilio.clock_offset
        self._offsets: dict[str | None, timedelta] = {}
        self._warned_at = -_WARN_EVERY_S

    def observe(self, base_url: str | None, date: str | None, *, sent_at: float, received_at: float) -> None:
        """Measures the offset of the server's clock from one answer. Does nothing if `date` is missing or invalid.

        `date` is the value of the header `Date`. The server wrote it between `sent_at` and `received_at`, which are Unix times
        of this machine's clock.
        """
        answered_at = _parse_http_date(date) if date else None
        if answered_at is None:
            return
        # Ignore a difference that the round trip and the header's resolution of one second can explain.
        ahead = max(answered_at - received_at, 0.0) or min(answered_at + _DATE_RESOLUTION_S - sent_at, 0.0)
        offset = timedelta(seconds=ahead)
        if self._offsets.get(base_url) != offset:
            self._offsets[base_url] = offset
            self._gauge.set((self.largest_offset or timedelta(0)).total_seconds())
        if abs(ahead) > MIN_OFFSET_TO_WARN.total_seconds() and time.monotonic() - self._warned_at > _WARN_EVERY_S:
            self._warned_at = time.monotonic()
            logger.warning(
                "twilio_clock_differs", base_url=base_url, ahead_s=round(ahead), do="synchronise this machine with NTP"
            )

    @property
    def largest_offset(self) -> timedelta | None:
        """Returns the offset of the server whose clock differs most, in either direction; None if no answer had a date yet."""
        return max(self._offsets.values(), key=abs, default=None)

    def offset(self, base_url: str | None) -> timedelta | None:
        """Returns how far the server's clock is ahead of this machine's; None if no answer had a date yet."""
        return self._offsets.get(base_url)


@lru_cache(maxsize=16)  # answers within one second repeat the text
def _parse_http_date(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
