"""Writes the sentence on how calls go, and the list of problems, for the page *Now*. Has no side effects."""

from dataclasses import dataclass
from datetime import datetime

from app.console.now.findings import LEVELS, AttentionItem, Level, attention_items
from app.console.now.store import MAX_COUNTED_ROWS, NowPageFacts
from app.console.now.words import MIN_SHARE_CALLS, SentencePart, last_dial_time_at_pace, percent, span_text, waiting_count_text


@dataclass(frozen=True, slots=True)
class StatusSentence:
    level: Level
    parts: list[SentencePart]


@dataclass(frozen=True, slots=True)
class NowView:
    sentence: StatusSentence
    findings: list[AttentionItem]
    read_at: datetime


def now_view(facts: NowPageFacts, *, for_operator: bool, key_set_state: str = "ok") -> NowView:
    """Returns what the page *Now* shows: the sentence, and the list of what needs attention.

    `key_set_state` is the state of the key set with which service account tokens are verified (app.workloads).
    """
    findings = attention_items(facts, for_operator=for_operator, key_set_state=key_set_state)
    level, head = _main_sentence(facts)
    worst = min([level, *(each.level for each in findings)], key=LEVELS.index)
    return NowView(StatusSentence(worst, [head, *_detail_sentence(facts)]), findings, facts.read_at)


def _main_sentence(facts: NowPageFacts) -> tuple[Level, str]:
    recent = facts.recent
    if not facts.has_tenants:
        return "ok", "Nothing is set up yet."
    if not facts.has_calls:
        return "ok", "No call has been requested yet."
    if recent.settled_or_unknown_count >= MIN_SHARE_CALLS and recent.started * 2 < recent.settled_or_unknown_count:
        return (
            "danger",
            f"Most calls do not start: {recent.settled_or_unknown_count - recent.started:,} of "
            f"{recent.settled_or_unknown_count:,} in the last hour.",
        )
    goes = "Calls go out" if recent.settled_or_unknown_count else "No call was dialled in the last hour"
    joint = "but" if recent.settled_or_unknown_count else "and"
    if not facts.workers.running:
        return "danger", f"{goes}, {joint} no worker runs."
    if facts.is_halted:
        return "danger", f"{goes}, {joint} scheduled calls are stopped."
    return "ok", f"{goes}."


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
    return [f"{waiting_count_text(facts.unknown)} unknown, oldest {span_text(facts.read_at - facts.unknown.since)}"]


def _waiting_calls_clause(facts: NowPageFacts) -> list[SentencePart]:
    if not facts.waiting.number or facts.waiting.since is None:
        return []
    paused = sum(queue.number for queue in facts.queues if queue.paused)
    clause: list[SentencePart] = [f"{waiting_count_text(facts.waiting)} waiting"]
    if paused >= facts.waiting.number:
        return [f"{waiting_count_text(facts.waiting)} waiting in paused queues"]
    if paused:
        clause[0] = f"{waiting_count_text(facts.waiting)} waiting, {paused:,} of them in paused queues"
    elif facts.waiting.number < MAX_COUNTED_ROWS and not facts.is_halted and facts.workers.running:
        ends = [end for queue in facts.queues if (end := last_dial_time_at_pace(queue, facts.read_at)) is not None]
        clause += [", the last at ", max([facts.waiting.since, facts.read_at, *ends])]
    return clause


def _twilio_errors_clause(facts: NowPageFacts) -> list[SentencePart]:
    if not facts.recent.settled_or_unknown_count:
        return []
    if not facts.recent.server_errors:
        return ["Twilio answers no 5xx"]
    return [f"Twilio answers 5xx to {percent(facts.recent.server_errors / facts.recent.settled_or_unknown_count)}"]
