"""Prevents a request from being sent after its deadline, even if the process was suspended before the write."""

import httpx

from app.clock import monotonic_seconds


class TooLate(httpx.ConnectTimeout):
    """The deadline for sending the request has passed. Nothing was written. Logs and metrics have the reason `too_late`."""


class SendGate:
    """Allows the first write of a request only before a deadline, and records whether it was allowed.

    `deadline` is a time of `app.clock.monotonic_seconds`, which counts suspended time too. The transport finds
    the gate in the request's extension `send_gate` and calls `try_enter` after it has connected.
    """

    def __init__(self, *, deadline: float) -> None:
        self._deadline = deadline
        self._entered = False
        self._closed = False

    def try_enter(self) -> bool:
        """Returns whether the request may be written. The transport must call this method directly before the first byte."""
        self._closed = self._closed or monotonic_seconds() >= self._deadline
        self._entered = self._entered or not self._closed
        return not self._closed

    def close(self) -> bool:
        """Forbids any later write. Returns True if no write was allowed before, so that nothing of the request was sent."""
        self._closed = True
        return not self._entered
