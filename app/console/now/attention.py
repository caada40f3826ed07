"""Finds what needs attention, for the page *Now*. Each item says what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal
from urllib.parse import quote

from app.console.now.store import MAX_LISTED_ROWS, NowPageFacts, RejectedCredential
from app.console.now.texts import (
    MIN_CALLS_FOR_CONCLUSION,
    SentencePart,
    is_only_limited_by_rate,
    last_dial_time_at_pace,
    most_did_not_start,
    percent_text,
    span_text,
    waiting_count_text,
)

Level = Literal["ok", "warning", "danger"]
"""How urgently someone should look at something. "ok" means not urgent."""
LEVELS_BY_URGENCY: Final[tuple[Level, ...]] = ("danger", "warning", "ok")
"""All levels, the most urgent first."""

# The outcome of a call may be unknown for this much longer than CALLGATE_RESOLVE_PERIOD, because that period begins after the
# attempt to dial the call, and because a search takes time.
_UNKNOWN_AGE_MARGIN: Final = timedelta(minutes=5)
_MIN_PENDING_AGE_TO_WARN: Final = timedelta(minutes=10)
_MIN_FAILING_AGE_TO_WARN: Final = timedelta(minutes=10)
# A new call may not be found at first.
_MIN_MISSING_AGE_TO_WARN: Final = timedelta(minutes=2)
_FIGURES_LATE_AFTER: Final = timedelta(minutes=5)
_SLOW_DATABASE_S: Final = 1.0
_MAX_SERVER_ERROR_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """Something that needs attention (`title`), and what to do about it (`advice`).

    `link` leads to the page that shows more. It has a label, and a path below /console.
    """

    level: Level
    title: list[SentencePart]
    advice: str
    link: tuple[str, str] | None = None


def attention_items(
    facts: NowPageFacts, *, for_operator: bool, resolve_period: timedelta, key_set_state: str
) -> list[AttentionItem]:
    """Returns what needs attention, the most urgent first.

    `resolve_period` (CALLGATE_RESOLVE_PERIOD) is how long Callgate normally searches Twilio's list of calls for a call whose
    `execution` is `unknown`. `key_set_state` is the state of the key set that verifies service account tokens, such as "stale".
    """
    found = [*_system_attention_items(facts, for_operator, key_set_state), *_attention_items_about_calls(facts, resolve_period)]
    found += [*_attention_items_about_scheduled_calls(facts, for_operator), *_attention_items_about_missing_calls(facts)]
    found += [*_delivery_attention_items(facts), *_price_attention_items(facts)]
    return sorted(found, key=lambda each: LEVELS_BY_URGENCY.index(each.level))


def _system_attention_items(facts: NowPageFacts, for_operator: bool, key_set_state: str) -> Iterator[AttentionItem]:
    if not facts.has_tenants:
        advice = "Create a tenant with its Twilio account and an API key, or run `callgate tenants --help`."
        yield AttentionItem("ok", ["There is no tenant."], advice, ("Tenants", "/tenants"))
    elif not facts.has_calls:
        advice = "Request one with `POST /v1/calls` and an API key. It then shows here."
        yield AttentionItem("ok", ["There is no call."], advice)
    if not facts.workers.running:
        seen: list[SentencePart] = (
            [" The last one was seen at ", facts.workers.last_seen_at, "."] if facts.workers.last_seen_at else []
        )
        advice = (
            "Start `callgate worker`. Without one, no scheduled call is dialled, unknown calls stay unknown, nothing is "
            "delivered, and no status or price is read. Calls that are dialled at once still go out."
        )
        level: Level = "danger" if facts.has_calls else "warning"
        yield AttentionItem(level, ["No worker runs.", *seen], advice if for_operator else "Tell the operator of Callgate.")
    elif facts.has_calls and facts.rolled_until is not None and facts.read_at - facts.rolled_until > _FIGURES_LATE_AFTER:
        advice = (
            "A worker catches up after an upgrade or a pause. If it does not, its log has `job_failed` or `rollup_skipped`."
        )
        yield AttentionItem("warning", ["The plots end at ", facts.rolled_until, "."], advice)
    if facts.took_s > _SLOW_DATABASE_S:
        advice = (
            "Look at the load, the locks and the disk of Postgres. Creations wait for it, too: `callgate_database_connections` "
            "shows how many connections are in use."
        )
        yield AttentionItem("warning", [f"The database is slow: this page took {facts.took_s:.1f} s to read."], advice)
    if for_operator and key_set_state != "ok":
        what = "is out of date" if key_set_state == "stale" else "cannot be used"
        advice = "Meanwhile, tokens of keys that Callgate does not have are refused. `callgate doctor` gives the reason."
        yield AttentionItem("warning", [f"The key set for service account tokens {what}."], advice)


def _attention_items_about_calls(facts: NowPageFacts, resolve_period: timedelta) -> Iterator[AttentionItem]:
    unknown, recent = facts.unknown, facts.recent
    if unknown.since and (waited := facts.read_at - unknown.since) > resolve_period + _UNKNOWN_AGE_MARGIN:
        advice = (
            "They may have rung, so do not place them again. A callback or a search of Twilio's list settles them; "
            "`callgate doctor` shows whether the clocks or a credential prevent it."
        )
        found = f"{waiting_count_text(unknown.number)} unknown {'call' if unknown.number == 1 else 'calls'}"
        title: list[SentencePart] = [f"{found}, the oldest for {span_text(waited)}."]
        yield AttentionItem("warning", title, advice, ("Unknown calls", "/calls?execution=unknown"))
    if facts.pending.since and (waited := facts.read_at - facts.pending.since) > _MIN_PENDING_AGE_TO_WARN:
        advice = "A process ended while it dialled, and no worker has found the call. See that a worker runs and what it logs."
        yield AttentionItem(
            "warning", [f"A call is pending for {span_text(waited)}."], advice, ("Pending calls", "/calls?execution=pending")
        )
    if recent.rolled_up >= MIN_CALLS_FOR_CONCLUSION and recent.server_errors / recent.rolled_up >= _MAX_SERVER_ERROR_SHARE:
        share = percent_text(recent.server_errors / recent.rolled_up)
        advice = (
            "See https://status.twilio.com. The answers may also come from a proxy. The calls are unknown until a callback or "
            "a search settles them."
        )
        yield AttentionItem("warning", [f"Twilio answered 5xx to {share} of the calls requested in the last hour."], advice)
    if most_did_not_start(recent):
        advice = (
            "Their problems say why: refused by Twilio, out of reach, throttled, without an accepted credential, or "
            "not dialled by their `ring_by`."
        )
        what = "did not start or are unknown" if recent.unknown else "did not start"
        title = [f"{recent.not_started + recent.unknown:,} calls that were requested in the last hour {what}."]
        yield AttentionItem("danger", title, advice, ("Calls that did not start", "/calls?execution=not_started"))
    if recent.callback_missing >= MIN_CALLS_FOR_CONCLUSION and not recent.called_back and facts.called_back_1_to_24_hours_ago:
        advice = "Twilio reaches Callgate at `CALLGATE_PUBLIC_URL`. Try that address from outside: name, certificate, firewall."
        calls = f"{recent.callback_missing:,} started calls that were requested in the last hour"
        title = [f"No callback came for the {calls}, but earlier calls had callbacks."]
        yield AttentionItem("danger", title, advice)
    yield from (_credential_attention_item(each) for each in facts.credentials)


def _credential_attention_item(rejected: RejectedCredential) -> AttentionItem:
    kind = "auth token" if rejected.username == rejected.account_sid else f"API key {rejected.username}"
    title: list[SentencePart] = [
        f"Twilio rejects the {kind} of account {rejected.account_sid} ({rejected.tenant_id}), since ",
        rejected.rejected_at,
        ".",
    ]
    if rejected.others:
        advice = (
            "Its other credentials are used. `callgate accounts rotate` replaces this one, `callgate accounts revoke` ends it."
        )
    else:
        advice = (
            "No other credential of the account is accepted, so its calls do not start. Add one with `callgate accounts add`."
        )
    link = ("Tenant", f"/tenants/{rejected.tenant_id}")
    return AttentionItem("warning" if rejected.others else "danger", title, advice, link)


# The advice about halted scheduled calls, by whether an operator has halted them.
_RELEASE_ADVICE: Final = {
    True: "`callgate queues halt` was run. Run `callgate queues release` when they may be dialled again.",
    False: "The database was restored, copied or failed over, so grants may be lost. `callgate queues release` finds out which "
    "calls Twilio has, and then lets the others be dialled.",
}


def _attention_items_about_scheduled_calls(facts: NowPageFacts, for_operator: bool) -> Iterator[AttentionItem]:
    if facts.is_halted:
        by_hand = facts.halt_reason == "operator"
        title: list[SentencePart] = ["Scheduled calls are stopped until an operator releases them."]
        yield AttentionItem("danger", title, _RELEASE_ADVICE[by_hand] if for_operator else "Tell the operator of Callgate.")
    for queue in facts.queues[:MAX_LISTED_ROWS]:
        name = f"Queue {queue.name} ({queue.tenant_id})" if for_operator else f"Queue {queue.name}"
        link = ("Queue", f"/queues/{quote(queue.tenant_id, safe='')}/{quote(queue.name, safe='')}")
        count = waiting_count_text(queue.number)
        end = last_dial_time_at_pace(queue, facts.read_at)
        if queue.paused:
            advice = "They expire at their `ring_by`. Resume the queue, or cancel its calls."
            yield AttentionItem(
                "warning", [f"{name} is paused with {count} calls, the last until ", queue.last_ring_by, "."], advice, link
            )
        elif end is not None and end > queue.last_ring_by and is_only_limited_by_rate(queue):
            advice = (
                "Those at the end expire before they are dialled. Raise the pace of the queue or its account, or cancel some."
            )
            title = [
                f"{name} needs until ",
                end,
                f" for its {count} calls, but the last must ring by ",
                queue.last_ring_by,
                ".",
            ]
            yield AttentionItem("warning", title, advice, link)
    if len(facts.queues) > MAX_LISTED_ROWS:
        advice = f"Only {MAX_LISTED_ROWS} are checked here, paused ones first. The list of queues has them all."
        yield AttentionItem("ok", [f"Calls wait in more than {MAX_LISTED_ROWS} queues."], advice, ("Queues", "/queues"))


def _attention_items_about_missing_calls(facts: NowPageFacts) -> Iterator[AttentionItem]:
    missing = facts.missing
    if missing.since is None or (waited := facts.read_at - missing.since) < _MIN_MISSING_AGE_TO_WARN:
        return
    concurrent = f"{waiting_count_text(missing.number)} of the concurrent calls"
    title: list[SentencePart] = [f"Twilio does not know {concurrent}, the oldest for {span_text(waited)}."]
    advice = (
        "They hold slots of their account and queue, so fewer others go out. A call that Twilio does not know an hour after "
        "its start is taken as deleted, and frees its slot. If there are many, see whether the account's base URL leads to "
        "where they were placed."
    )
    yield AttentionItem("warning", title, advice, ("The oldest call", f"/calls/{missing.oldest}"))


def _delivery_attention_items(facts: NowPageFacts) -> Iterator[AttentionItem]:
    failing = facts.failing
    if failing.number and failing.since and (waited := facts.read_at - failing.since) > _MIN_FAILING_AGE_TO_WARN:
        title: list[SentencePart] = [
            f"{waiting_count_text(failing.number)} deliveries fail and are tried again, the oldest for {span_text(waited)}."
        ]
        advice = "The receiver does not answer 2xx. Their last error says why; attempts end after three days."
        yield AttentionItem("warning", title, advice, ("Deliveries", "/deliveries"))
    if facts.gave_up:
        advice = (
            "The receiver did not answer 2xx for three days, or answered 410. When it works again, send them again. The list "
            "shows those that are left; the number here may include deliveries that were sent again, for up to a week."
        )
        title = [
            f"{facts.gave_up:,} {'delivery was' if facts.gave_up == 1 else 'deliveries were'} given up, "
            "of events in the last 7 days."
        ]
        yield AttentionItem("warning", title, advice, ("Deliveries", "/deliveries"))


def _price_attention_items(facts: NowPageFacts) -> Iterator[AttentionItem]:
    if facts.price_given_up:
        title: list[SentencePart] = [f"{facts.price_given_up:,} completed calls of the last 7 days have no price."]
        advice = (
            "Twilio usually has a price within minutes. They are not read again by themselves; Twilio's console shows them."
        )
        yield AttentionItem("warning", title, advice, ("Completed calls", "/calls?status=completed"))
