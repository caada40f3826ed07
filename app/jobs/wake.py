"""Ends the pause of a job early, when work for it arrives."""

import asyncio

_DELAY_S = 0.02


async def debounce_wake(wake: asyncio.Event) -> None:
    """Waits for _DELAY_S and clears `wake`, after it was set.

    Wake-ups come in groups. The next step of the job then handles the work of a whole group.
    """
    await asyncio.sleep(_DELAY_S)
    wake.clear()
