"""Numbers and times in words, and estimates of when a queue's calls will have been dialled, for the page *Now*."""

from datetime import datetime, timedelta
from typing import Final

from app.console.now.store import MAX_COUNTED_ROWS, LastHourCallCounts, WaitingQueue
from app.queues.progress import last_dial_or_expiry_time, last_dial_time_at_rate

SentencePart = str | datetime
"""A part of a sentence: text with `code` in backticks, or a time, which the page shows in the viewer's zone."""
MIN_CALLS_FOR_CONCLUSION: Final = 5
"""With fewer calls, the page draws no conclusion, such as that most calls do not start."""


def most_did_not_start(recent: LastHourCallCounts) -> bool:
    """Returns whether less than half of the last hour's calls are known to have started.

    Scheduled and pending calls do not count. Returns False if there are fewer than MIN_CALLS_FOR_CONCLUSION calls.
    """
    return recent.settled_or_unknown_count >= MIN_CALLS_FOR_CONCLUSION and recent.started * 2 < recent.settled_or_unknown_count


def waiting_count_text(number: int) -> str:
    """Returns the number of waiting items as text, such as "12".

    Returns "10,000 or more" from MAX_COUNTED_ROWS on, where counting stops.
    """
    return f"{number:,}" if number < MAX_COUNTED_ROWS else f"{MAX_COUNTED_ROWS:,} or more"


def percent_text(share: float) -> str:
    """Returns a share between 0 and 1 as a percentage with one decimal, such as "12.5 %"."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"{100 * share:.1f} %"


def span_text(span: timedelta) -> str:
    """Returns a time span in days or hours if it has at least two of them, otherwise in minutes or seconds: "47 h", "2 d"."""
    seconds = max(int(span.total_seconds()), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def is_only_limited_by_rate(queue: WaitingQueue) -> bool:
    """Returns whether nothing but the maximum rate of dialling decides when the queue's calls are dialled.

    Returns False if the queue is paused, if its tenant is suspended, or if its calls may ring at certain hours only.
    """
    return not (queue.paused or queue.is_tenant_suspended or queue.has_hours)


def last_dial_time_at_pace(queue: WaitingQueue, now: datetime) -> datetime | None:
    """Returns when the last waiting call of the queue will be dialled if calls are dialled at the queue's maximum rate.

    Returns None if the rate has no limit.
    """
    if queue.calls_per_second is None:
        return None
    return last_dial_time_at_rate(now, queue.number, queue.calls_per_second, last_due_at=queue.last_due_at)


def projected_queue_end(queue: WaitingQueue, now: datetime) -> datetime | None:
    """Returns when the last waiting call of the queue will be dialled or expire; None if this is unknown."""
    last_dial_at = last_dial_time_at_pace(queue, now)
    if last_dial_at is None or not is_only_limited_by_rate(queue):
        return None
    return last_dial_or_expiry_time(now, last_dial_at, last_ring_by=queue.last_ring_by)
