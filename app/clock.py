"""Time that has really passed, for what must not happen too late."""

import time

# On Linux the monotonic clock stands still while the machine is suspended; this one does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Seconds since some moment in the past. Never goes back."""
    return time.clock_gettime(_CLOCK)
