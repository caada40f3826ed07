"""Decides, by the receiver's answer, whether a delivery is done, given up, or tried again, and after what time."""

import random
from datetime import UTC, datetime, timedelta
from typing import Final

FIRST_RETRY_DELAY: Final = timedelta(seconds=5)
"""The wait after the first failed attempt, by default. The setting CALLGATE_DELIVERY_FIRST_RETRY replaces it."""
GIVE_UP_AFTER: Final = timedelta(days=3)
_STATUS_GONE = 410
# The waits between attempts as multiples of the first: 5 s, 30 s, 2 min, 15 min, 1 h, then every 4 h.
_RETRY_WAIT_MULTIPLES = (1, 6, 24, 180, 720)
_LAST_RETRY_WAIT_MULTIPLE = 2880
_JITTER_FRACTION = 0.1


def is_delivered(status: int | None) -> bool:
    """Returns whether the receiver has accepted a delivery by answering with this status. None stands for no answer."""
    return status is not None and 200 <= status < 300


def retry_delay_or_give_up(
    status: int | None, failures: int, pending_since: datetime, first: timedelta = FIRST_RETRY_DELAY
) -> timedelta | None:
    """Returns the time to wait before the next attempt at a delivery that has now failed `failures` times.

    `status` is the HTTP status of the receiver's answer to the last attempt, and None if there was no answer. `first` is the
    wait after the first failure. Returns None if Callgate gives up: if the status is 410 (Gone), or if the next attempt would
    begin more than GIVE_UP_AFTER after `pending_since`.
    """
    delay = retry_delay(failures, first)
    return None if status == _STATUS_GONE or datetime.now(UTC) + delay > pending_since + GIVE_UP_AFTER else delay


def retry_delay(failures: int, first: timedelta = FIRST_RETRY_DELAY) -> timedelta:
    """Returns the time to wait before the next attempt at a delivery whose attempts have failed `failures` times.

    `first` is the wait after the first failure. Later waits are multiples of it. Each wait is varied at random by up to
    10 %, so that the retries of many deliveries spread out.
    """
    wait = _RETRY_WAIT_MULTIPLES[failures - 1] if failures <= len(_RETRY_WAIT_MULTIPLES) else _LAST_RETRY_WAIT_MULTIPLE
    return first * wait * random.uniform(1 - _JITTER_FRACTION, 1 + _JITTER_FRACTION)  # noqa: S311  # no secret
