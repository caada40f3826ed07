"""Makes the sentence about the calls of the last hour, and the list of what needs attention, for the page *Now*."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.console.now.attention import LEVELS_BY_URGENCY, AttentionItem, Level, attention_items
from app.console.now.store import MAX_COUNTED_ROWS, MAX_LISTED_ROWS, NowPageFacts
from app.console.now.texts import (
    SentencePart,
    most_did_not_start,
    percent_text,
    projected_queue_end,
    span_text,
    waiting_count_text,
)

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StatusSentence:
    level: Level
    parts: list[SentencePart]


@dataclass(frozen=True, slots=True)
class NowView:
    sentence: StatusSentence
    attention_items: list[AttentionItem]
    read_at: datetime


def now_view(facts: NowPageFacts, *, for_operator: bool, resolve_period: timedelta, key_set_state: str = "ok") -> NowView:
    """Returns what the page *Now* shows: a sentence about the calls of the last hour, and the list of what needs attention.

    `resolve_period` (CALLGATE_RESOLVE_PERIOD) is how long Callgate normally searches Twilio's list of calls for a call whose
    `execution` is `unknown`. `key_set_state` is the state of the key set that verifies service account tokens, such as "stale".
    """
    items = attention_items(facts, for_operator=for_operator, resolve_period=resolve_period, key_set_state=key_set_state)
    level, head = _main_sentence(facts)
    worst = min([level, *(each.level for each in items)], key=LEVELS_BY_URGENCY.index)
    return NowView(StatusSentence(worst, [*head, *_detail_sentence(facts)]), items, facts.read_at)


def _main_sentence(facts: NowPageFacts) -> tuple[Level, list[SentencePart]]:
    recent = facts.recent
    if not facts.has_tenants:
        return "ok", ["Nothing is set up yet."]
    if not facts.has_calls:
        return "ok", ["No call has been requested yet."]
    if most_did_not_start(recent):
        what = "do not start or are unknown" if recent.unknown else "do not start"
        numbers = f"{recent.settled_or_unknown_count - recent.started:,} of {recent.settled_or_unknown_count:,}"
        return "danger", [f"Most calls {what}: {numbers} that were requested in the last hour."]
    goes, joint = _dialling_clause(facts)
    if not facts.workers.running:
        return "danger", [*goes, f", {joint} no worker runs."]
    if facts.is_halted:
        return "danger", [*goes, f", {joint} scheduled calls are stopped."]
    return "ok", [*goes, "."]


def _dialling_clause(facts: NowPageFacts) -> tuple[list[SentencePart], str]:
    """Returns a clause that says whether calls are dialled, and the word with which a clause about a problem is joined to it.

    The word is "but" if calls are dialled, and "and" if not. `facts.recent` counts only calls that were requested in the last
    hour. Scheduled calls may have been requested earlier, so `facts.last_grant_at` (when a worker last took the right to dial
    one) is checked, too.
    """
    recent, granted_at = facts.recent, facts.last_grant_at
    if recent.started:
        return ["Calls go out"], "but"
    if recent.settled_or_unknown_count:
        return ["No call that was requested in the last hour is known to have started"], "and"
    if granted_at is not None and facts.read_at - granted_at < _HOUR:
        return ["Scheduled calls are dialled, the last at ", granted_at], "but"
    if recent.pending:
        return ["Calls are being dialled"], "but"
    return ["No call was dialled in the last hour"], "and"


def _detail_sentence(facts: NowPageFacts) -> list[SentencePart]:
    clauses = [
        clause
        for clause in (_unknown_calls_clause(facts), _waiting_calls_clause(facts), _twilio_errors_clause(facts))
        if clause
    ]
    joined: list[SentencePart] = []
    for index, clause in enumerate(clauses):
        joined += [" " if index == 0 else "; ", *clause]
    if joined and isinstance(joined[1], str):
        joined[1] = joined[1][0].upper() + joined[1][1:]
    return [*joined, "."] if joined else []


def _unknown_calls_clause(facts: NowPageFacts) -> list[SentencePart]:
    if not facts.unknown.number or facts.unknown.since is None:
        return []
    return [f"{waiting_count_text(facts.unknown.number)} unknown, oldest {span_text(facts.read_at - facts.unknown.since)}"]


def _waiting_calls_clause(facts: NowPageFacts) -> list[SentencePart]:
    if not facts.waiting:
        return []
    waiting = f"{waiting_count_text(facts.waiting)} waiting"
    paused = [queue.number for queue in facts.queues if queue.paused]
    if sum(paused) == facts.waiting < MAX_COUNTED_ROWS:
        return [f"{waiting} in paused queues"]
    if paused:
        # There may be more paused queues than those that were read.
        more = " or more" if len(paused) > MAX_LISTED_ROWS and sum(paused) < MAX_COUNTED_ROWS else ""
        return [f"{waiting}, {waiting_count_text(sum(paused))}{more} of them in paused queues"]
    end = _end_of_waiting_calls(facts)
    return [waiting] if end is None else [f"{waiting}, the last at ", end]


def _end_of_waiting_calls(facts: NowPageFacts) -> datetime | None:
    """Returns when the last waiting call will be dialled or expire; None unless this is known for every waiting call."""
    if facts.is_halted or not facts.workers.running or sum(queue.number for queue in facts.queues) != facts.waiting:
        return None
    if facts.waiting >= MAX_COUNTED_ROWS:
        return None
    ends: list[datetime] = []
    for queue in facts.queues:
        end = projected_queue_end(queue, facts.read_at)
        if end is None:
            return None
        ends.append(end)
    return max(ends)


def _twilio_errors_clause(facts: NowPageFacts) -> list[SentencePart]:
    recent = facts.recent
    if not recent.rolled_up:
        return []
    if not recent.server_errors:
        return ["Twilio answers no 5xx"]
    return [f"Twilio answers 5xx to {percent_text(recent.server_errors / recent.rolled_up)}"]
