"""Nothing is sent too late, however long this process was suspended meanwhile."""

import httpx

from app.clock import elapsed


class TooLate(httpx.ConnectTimeout):
    """The moment before which the request had to be written has passed; nothing was written."""


class SendGate:
    """Lets a request through to the wire before a moment of `elapsed`, and tells whether it went through.

    Given as the request's extension `send_gate`. A process that was suspended while it connected finds the gate closed.
    """

    def __init__(self, *, before: float) -> None:
        self._before = before
        self._entered = False
        self._closed = False

    def enter(self) -> bool:
        """Asked just before the first byte is written."""
        self._closed = self._closed or elapsed() >= self._before
        self._entered = self._entered or not self._closed
        return not self._closed

    def close(self) -> bool:
        """Whether nothing was written. From now on nothing will be."""
        self._closed = True
        return not self._entered
