"""Lets a process ignore the repetitions of a signal: for one second, it accepts no further signal."""

import asyncio
from collections.abc import Callable

_REPEATED_SIGNAL_WINDOW_S = 1.0


def call_after_signal_window(loop: asyncio.AbstractEventLoop, accept_signals: Callable[[], object]) -> None:
    """Calls `accept_signals` after _REPEATED_SIGNAL_WINDOW_S seconds. Until then, the process ignores further signals.

    One request to stop can reach a process as two signals. The command `timeout` sends its signal to the process and to its
    group. systemd sends SIGTERM to every process of `callgate serve --workers`, and the parent process then sends it to its
    workers, usually within half a second.
    """
    loop.call_later(_REPEATED_SIGNAL_WINDOW_S, accept_signals)
