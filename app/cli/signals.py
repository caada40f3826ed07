"""How a process is told to end."""

import asyncio
import os
import signal

_SAME_KEYSTROKE_S = 1.0
_POLL_INTERVAL_S = 0.5


def stop_on_signal(*, with_parent: bool = False) -> asyncio.Event:
    """Set by SIGINT or SIGTERM, which asks to end in good order; a second one ends the process at once.

    `with_parent`: also set when the process that started this one ends, however that comes about.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end() -> None:
        stop.set()
        # Not at once: `timeout` sends its signal to the process and then to the group that it is in.
        loop.call_later(_SAME_KEYSTROKE_S, _forget)

    def _forget() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    if with_parent:
        _look_for(os.getppid(), loop, stop)
    return stop


def _look_for(parent: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if os.getppid() != parent:
        stop.set()
    else:
        loop.call_later(_POLL_INTERVAL_S, _look_for, parent, loop, stop)
