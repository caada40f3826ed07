"""Delays a job that was woken, so that its next step handles all work that arrives at about the same time."""

import asyncio

_DELAY_S = 0.02


async def debounce_wake(wake: asyncio.Event) -> None:
    """Waits for _DELAY_S, and then clears `wake`. Call this after `wake` was set.

    Wake-ups come in groups. After this wait, one step of the job handles the work of a whole group.
    """
    await asyncio.sleep(_DELAY_S)
    wake.clear()
