"""Compares this machine's clock with Twilio's clock, by the `Date` header of Twilio's answers (RFC 9110 §6.6.1)."""

import math
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

import structlog

from app.clock import monotonic_seconds
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

MIN_OFFSET_TO_WARN = timedelta(seconds=60)
MAX_TRUSTED_OFFSET = timedelta(minutes=15)
"""If Twilio's clock differs by more than this, a search of its call list by time cannot prove that a call is missing."""
_WARN_EVERY_S = 600.0
_MAX_OFFSET_AGE_S = 900.0
_DATE_RESOLUTION_S = 1.0


class TwilioClockOffsets:
    """Remembers the offset of each Twilio server's clock: how far it was ahead of this machine's clock at the last measurement.

    Servers are identified by base URL. None is the default server. A measurement counts for 15 minutes, because a clock
    may be set later, and a server may no longer be used.
    """

    def __init__(self, metrics: Metrics) -> None:
        # By server: the offset, and when it was measured, by `app.clock.monotonic_seconds`.
        self._measured: dict[str | None, tuple[timedelta, float]] = {}
        metrics.twilio.clock_offset.set_function(lambda: (self.largest_offset or timedelta(0)).total_seconds())
        self._warned_at = -math.inf

    def measure_offset(self, base_url: str | None, date: str | None, *, sent_at: float, received_at: float) -> None:
        """Measures the offset of the server's clock from one answer. Does nothing if `date` is missing or invalid.

        `date` is the value of the header `Date`. The server wrote it between `sent_at` and `received_at`, which are Unix times
        of this machine's clock.
        """
        answered_at = _parse_http_date(date) if date else None
        if answered_at is None:
            return
        # Ignore a difference that the round trip and the header's resolution of one second can explain.
        ahead = max(answered_at - received_at, 0.0) or min(answered_at + _DATE_RESOLUTION_S - sent_at, 0.0)
        now = monotonic_seconds()
        self._measured[base_url] = timedelta(seconds=ahead), now
        if abs(ahead) > MIN_OFFSET_TO_WARN.total_seconds() and now - self._warned_at > _WARN_EVERY_S:
            self._warned_at = now
            logger.warning(
                "twilio_clock_differs", base_url=base_url, ahead_s=round(ahead), do="synchronise this machine with NTP"
            )

    @property
    def largest_offset(self) -> timedelta | None:
        """Returns the offset of the server whose clock differs most, in either direction; None if no offset is known."""
        offsets = (self.offset_of_server(base_url) for base_url in self._measured)
        return max((offset for offset in offsets if offset is not None), key=abs, default=None)

    def offset_of_server(self, base_url: str | None) -> timedelta | None:
        """Returns how far the server's clock is ahead of this machine's; None if no answer of the last 15 minutes shows it."""
        offset, measured_at = self._measured.get(base_url, (None, -math.inf))
        return offset if monotonic_seconds() - measured_at <= _MAX_OFFSET_AGE_S else None


@lru_cache(maxsize=16)  # answers within one second repeat the text
def _parse_http_date(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
