"""Measures elapsed time, including time for which the machine was suspended."""

import time

# On Linux CLOCK_MONOTONIC stops while the machine is suspended; CLOCK_BOOTTIME does not.
_CLOCK_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic_seconds() -> float:
    """Returns seconds since an arbitrary fixed moment. Never decreases."""
    return time.clock_gettime(_CLOCK_ID)
