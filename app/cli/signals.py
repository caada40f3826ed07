"""Stops a process on a signal or when its parent ends."""

import asyncio
import os
import signal

_REPEATED_SIGNAL_WINDOW_S = 1.0
_POLL_INTERVAL_S = 0.5


def stop_on_signal(*, with_parent: bool = False) -> asyncio.Event:
    """Returns an event that is set by the first SIGINT or SIGTERM. A second signal ends the process at once.

    `with_parent`: the event is also set when the parent process ends for any reason.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def handle() -> None:
        stop.set()
        # Delayed, because `timeout` sends its signal twice: to the process and to its group.
        loop.call_later(_REPEATED_SIGNAL_WINDOW_S, restore_default)

    def restore_default() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle)
    if with_parent:
        _stop_with_parent(os.getppid(), loop, stop)
    return stop


def _stop_with_parent(parent: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if os.getppid() != parent:
        stop.set()
    else:
        loop.call_later(_POLL_INTERVAL_S, _stop_with_parent, parent, loop, stop)
