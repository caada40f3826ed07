"""Describes queues in words for the console's pages: maximum rate, hours, reasons to wait, and progress."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlencode

from app.console.queues.store import MAX_COUNTED_CALLS
from app.console.texts import hours_text, pace_text
from app.http.operations import CONSOLE_PREFIX
from app.queues.progress import QueueProgress, UnknownEndReason
from app.queues.state_store import QueueState
from app.queues.wait_reason import WaitReasonName, wait_reason

QUEUES_PATH: Final = f"{CONSOLE_PREFIX}/queues"
_WAIT_REASON_TEXTS: Final[dict[WaitReasonName, str]] = {
    "halted": "waits, as all scheduled calls do: the database was restored or failed over, or an operator has halted them. "
    "They go on after `callgate queues release`",
    "tenant_suspended": "waits until the tenant is resumed",
    "paused": "waits until the queue is resumed",
    "not_before": "waits for its time",
    "retry": "is tried again later, because it, or another call of its account, could not be dialled",
    "outside_hours": "waits for the hours in which it may ring",
    "concurrency": "waits until a call of the queue ends",
    "pace": "waits for the pace of the queue",
    "account_concurrency": "waits until a call of the account ends",
    "account_pace": "waits for the pace of the account",
}
_UNKNOWN_END_TEXTS: Final[dict[UnknownEndReason, str]] = {
    "none_waits": "no call waits",
    "not_counted": "unknown: the calls that wait were not counted in time",
    "stopped": "unknown while no call is dialled",
    "hours": "unknown, because hours apply",
    "no_rate": "unknown, because neither queue nor account has a limit of calls per second",
}
# Reasons for which none of the queue's calls is dialled.
_HALTING_REASONS: Final = frozenset({"halted", "tenant_suspended", "paused"})


def wait_reason_in_words(reason: WaitReasonName | None, *, waits: bool) -> str:
    """Returns in words why the queue's next call waits, such as "waits for its time".

    `waits` says whether any call waits in the queue; if not, the result is "–". `reason` is None if the next call is dialled
    now.
    """
    if not waits:
        return "–"
    return "is dialled now" if reason is None else _WAIT_REASON_TEXTS[reason]


def waiting_calls_text(number: int) -> str:
    """Returns the number of waiting calls as text; "1,000+" if the number is larger than MAX_COUNTED_CALLS."""
    return f"{MAX_COUNTED_CALLS:,}+" if number > MAX_COUNTED_CALLS else f"{number:,}"


def canceled_calls_message(number: int) -> str:
    return "1 call was canceled." if number == 1 else f"{number:,} calls were canceled."


def queue_path(tenant_id: str, name: str) -> str:
    return f"{QUEUES_PATH}/{quote(tenant_id, safe='')}/{quote(name, safe='')}"


def queue_calls_url(tenant_id: str, name: str) -> str:
    """Returns the URL of the list of this queue's calls.

    The URL has a query string, to which further filters can be appended.
    """
    return f"{CONSOLE_PREFIX}/calls?{urlencode({'tenant': tenant_id, 'queue': name})}"


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """A queue as its own page and the list of queues show it: its state, its limits, and why its next call waits."""

    path: str
    tenant_id: str
    name: str
    state: str
    """The state of the queue: `paused`, `halted` or `active`.

    `halted` means that the queue is not paused, but its waiting calls are not dialled, because all scheduled calls are halted
    or the tenant is suspended. A queue in which no call waits is never `halted`.
    """
    next_due_at: datetime | None
    reason: str
    pace: str
    under_way: str
    hours: str | None

    @classmethod
    def from_state(cls, state: QueueState) -> "QueueSummary":
        queue, reason = state.queue, wait_reason(state)
        return cls(
            path=queue_path(queue.tenant_id, queue.name),
            tenant_id=queue.tenant_id,
            name=queue.name,
            state="paused" if queue.paused else "halted" if reason in _HALTING_REASONS else "active",
            next_due_at=None if state.next_call is None else state.next_call.due_at,
            reason=wait_reason_in_words(reason, waits=state.next_call is not None),
            pace=pace_text(queue.pace),
            under_way="–" if state.under_way is None else f"{state.under_way:,}",
            hours=hours_text(queue.hours),
        )


@dataclass(frozen=True, slots=True)
class QueueView:
    """What the page of one queue shows: the queue, the numbers of its calls, and when no call will wait any more."""

    item: QueueSummary
    read_at: datetime
    sentence: str
    counts_by_execution: tuple[tuple[str, int], ...] | None
    """Pairs of an execution (Callgate's state of a call) and a number of calls; None if counting took too long."""
    statuses: tuple[tuple[str, int], ...]
    problems: tuple[tuple[str, int], ...]
    achieved_pace: str
    """The average number of calls that started per second in the last minute, in words."""
    waiting: int | None
    first_not_before: datetime | None
    projected_end_at: datetime | None
    unknown_end_text: str
    """The reason why the projected end (the time at which no call will wait any more) is unknown; "" if it is known."""
    is_paused: bool
    is_limited: bool
    ring_within: str
    updated_at: datetime

    @classmethod
    def from_progress(cls, progress: QueueProgress) -> "QueueView":
        queue, waiting, counts = progress.state.queue, progress.waiting, progress.counts
        started = None if counts is None else counts.started_in_last_minute
        return cls(
            item=QueueSummary.from_state(progress.state),
            read_at=progress.state.read_at,
            sentence=_progress_sentence(progress),
            counts_by_execution=None if counts is None else tuple(sorted(counts.execution.items())),
            statuses=() if counts is None else _sorted_by_count(counts.status),
            problems=() if counts is None else _sorted_by_count(counts.problem),
            achieved_pace="not counted in time" if started is None else f"{started / 60:.2f} a second in the last minute",
            waiting=None if waiting is None else waiting.number,
            first_not_before=None if waiting is None else waiting.first_not_before,
            projected_end_at=progress.projected_end_at,
            unknown_end_text="" if isinstance(progress.end, datetime) else _UNKNOWN_END_TEXTS[progress.end],
            is_paused=queue.paused,
            is_limited=queue.pace.is_limited,
            ring_within="15 minutes" if queue.ring_within_s is None else f"{queue.ring_within_s:,} s",
            updated_at=queue.updated_at,
        )


def _progress_sentence(progress: QueueProgress) -> str:
    waiting = progress.waiting
    if waiting is None:
        return "More calls wait than could be counted in time."
    if waiting.number == 0:
        return "Paused. No call waits." if progress.state.queue.paused else "No call waits."
    number = "1 call waits" if waiting.number == 1 else f"{waiting.number:,} calls wait"
    return f"{number}. The next one {wait_reason_in_words(progress.wait_reason, waits=True)}."


def _sorted_by_count(counts: dict[str, int]) -> tuple[tuple[str, int], ...]:
    """Returns pairs of name and count, the largest count first."""
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def first_queue_list_page_url(tenant: str) -> str:
    """Returns the URL of the list of queues of this tenant, or of all tenants if `tenant` is ""."""
    return f"{QUEUES_PATH}?{urlencode({'tenant': tenant})}" if tenant else QUEUES_PATH


def next_queue_list_page_url(item: QueueSummary, tenant: str) -> str:
    """Returns the URL of the next page of the list of queues. `item` is the last queue on the current page.

    `tenant` is the tenant to which the list is limited; "" means all tenants.
    """
    given = {"tenant": tenant, "after_tenant": "" if tenant else item.tenant_id, "after": item.name}
    return f"{QUEUES_PATH}?{urlencode({name: value for name, value in given.items() if value})}"
