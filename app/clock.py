"""A clock for elapsed time. On Linux it also counts the time during which the machine was suspended."""

import time

# On Linux CLOCK_MONOTONIC stops while the machine is suspended; CLOCK_BOOTTIME does not.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic_seconds() -> float:
    """Returns the seconds since an arbitrary fixed moment. The value never decreases."""
    return time.clock_gettime(_CLOCK_ID)
