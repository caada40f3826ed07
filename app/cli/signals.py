"""Stops a process on a signal or when its parent ends."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from app.http.repeated_signals import call_after_signal_window

_POLL_INTERVAL_S = 0.5


def stop_event_on_signal(*, parent: int | None = None) -> asyncio.Event:
    """Returns an event that is set by the first SIGINT or SIGTERM, or when this process's parent has ended.

    `parent` is the parent's process id. If it is None, only the signals set the event. For about a second after the first
    signal, further ones are ignored as repetitions. Each later signal has Python's default effect, which ends the process.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def handle() -> None:
        stop.set()
        call_after_signal_window(loop, restore_default)

    def restore_default() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, handle)
    if parent is not None:
        _set_when_parent_ends(parent, loop, stop)
    return stop


@contextmanager
def signals_as_keyboard_interrupt() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP raise KeyboardInterrupt, so that temporary files are removed. Works only in the main thread.

    The process then exits with the code that shells use for the signal: 128 plus the number of the signal.
    """
    received = []

    def handle(number: int, _: object) -> None:
        # `timeout` sends its signal twice, which must not interrupt the removal.
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A command that a shell starts with `&` ignores SIGINT. asyncio handles SIGINT only if Python's own handler is set.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        if received:
            sys.exit(128 + received[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_when_parent_ends(parent: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if os.getppid() != parent:
        stop.set()
    else:
        loop.call_later(_POLL_INTERVAL_S, _set_when_parent_ends, parent, loop, stop)
