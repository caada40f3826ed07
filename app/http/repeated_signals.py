"""Helps a process to ignore the repetitions of a signal, by accepting no further signal for one second."""

import asyncio
from collections.abc import Callable

_REPEATED_SIGNAL_WINDOW_S = 1.0


def call_after_signal_window(loop: asyncio.AbstractEventLoop, accept_signals: Callable[[], object]) -> None:
    """Calls `accept_signals` after _REPEATED_SIGNAL_WINDOW_S seconds. The caller must ignore further signals until then.

    One request to stop can reach a process as two signals. The command `timeout` sends its signal to the process and to its
    group. systemd sends SIGTERM to every process of `callgate serve --workers`, and the parent process then sends it to its
    workers, usually within half a second.
    """
    loop.call_later(_REPEATED_SIGNAL_WINDOW_S, accept_signals)
