"""Proves pace, deadlines and cancellations during failures: `python -m tests.proofs.paced --creations 2400 --seed 1`.

Two API processes and four workers run over one Postgres. Two accounts have a pace and a limit of concurrent calls, and three
queues have limits of their own. Three callers schedule calls, place some at once and cancel some at random. The simulator fails
some creations, and refuses a call above the limit. Processes are killed at random, and tests.proofs.disturbances disturbs
Postgres and the API. At the end records, slots and tokens are compared with the simulator's ledger, which says what really
rang, and when. Before all that, two proofs run undisturbed: reminders of which most must expire (tests.proofs.reminders), and
calls that Twilio still holds in its queue at their deadline (tests.proofs.twilio_queue).
"""

import argparse
import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from app.local.postgres import EmbeddedPostgres
from tests.proofs.chaos import call_id_of, calls_that_rang, verdict
from tests.proofs.disturbances import CreationNumbers, disturbed
from tests.proofs.fleet import answers_to_callbacks, refused_callbacks
from tests.proofs.paced_load import ENDED, TENANT, Paced, end, place_all, running_paced, waits_for_tomorrow
from tests.proofs.proof import parser, prove, report
from tests.proofs.reminders import LATE_MARGIN_S, remind
from tests.proofs.slot_log import SlotChange, Subject, read_subjects
from tests.proofs.twilio_queue import hold_in_twilios_queue
from tests.support.clients import http_client

TOO_MANY_CONCURRENT = 10004
DIAL_DELAY_S = 5.0
"""The longest time from a grant to the dial: the budget of a request (4 s), and a second for a busy machine."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A call that rang, with its creation in the simulator's ledger and the grant before it, if there is one."""

    call_id: str
    entry: Mapping[str, Any]
    grant: SlotChange | None

    @property
    def received_at(self) -> datetime:
        return datetime.fromisoformat(self.entry["received_at"])


def dialled_calls(entries: Sequence[Mapping[str, Any]], subjects: Sequence[Subject]) -> list[Dialled]:
    grants: dict[str, list[SlotChange]] = {}
    for subject in subjects:
        for grant in subject.grants:
            grants.setdefault(str(grant.call_id), []).append(grant)
    found = []
    for entry in entries:
        if entry["accepted"]:
            call_id, at = call_id_of(entry), datetime.fromisoformat(entry["received_at"])
            before = [grant for grant in grants.get(call_id, []) if grant.granted_at <= at]
            found.append(Dialled(call_id, entry, max(before, key=lambda grant: grant.granted_at, default=None)))
    return found


def times_kept(records: Sequence[Mapping[str, Any]], dialled: Sequence[Dialled]) -> tuple[dict[str, int], float]:
    """Returns how many calls were dialled before `not_before`, and how many too long after `ring_by`.

    Also returns the longest time from a `ring_by` to its call, in seconds. It is negative if all calls were in time.
    """
    parameters = {record["id"]: record["parameters"] for record in records}
    early, lateness = 0, [-1e9]
    for call in dialled:
        given = parameters.get(call.call_id, {})
        if "ring_by" in given:
            lateness.append((call.received_at - datetime.fromisoformat(given["ring_by"])).total_seconds())
            early += call.received_at < datetime.fromisoformat(given["not_before"])
    late = sum(each > LATE_MARGIN_S for each in lateness)
    return {"dialled before not_before": early, f"dialled {LATE_MARGIN_S:g} s after ring_by": late}, max(lateness)


def paces_kept(subjects: Sequence[Subject], dialled: Sequence[Dialled], entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns how often each limit of pace or concurrent calls was exceeded."""
    received: dict[UUID | None, list[float]] = {}
    for call in dialled:
        if call.grant:
            for subject_id in (call.grant.account_id, call.grant.queue_id):
                received.setdefault(subject_id, []).append(call.received_at.timestamp())
    return {
        "rang without a grant": sum(call.grant is None for call in dialled),
        "accounts or queues that granted faster than their pace": sum(
            subject.needed_burst > subject.burst for subject in subjects
        ),
        f"accounts or queues that dialled faster than their pace, with up to {DIAL_DELAY_S:g} s from grant to dial": sum(
            subject.burst_of(received.get(subject.id, []), spread_s=DIAL_DELAY_S) > subject.burst for subject in subjects
        ),
        "accounts or queues with more slots than they may have": sum(subject.is_above_concurrency for subject in subjects),
        "creations above the account's concurrent calls": sum(entry["answer_code"] == TOO_MANY_CONCURRENT for entry in entries),
    }


def slots_kept(subjects: Sequence[Subject], left: set[str], records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Checks that calls in progress have a slot (a place within the limit of concurrent calls), and that ended calls have none.

    `left` has the ids of calls with a slot at the end. Returns how often each promise was broken.
    """
    placed_last = [record for record in records if record["to"].startswith("sip:last@")]
    last = {record["id"] for record in placed_last}
    counted = {subject.id: sum(1 if change.is_taken else -1 for change in subject.changes) for subject in subjects}
    return {
        "calls placed last that were not dialled": sum(record["execution"] != "started" for record in placed_last),
        "slots left of calls that are over": len(left - last),
        "calls under way without a slot": sum(
            record["execution"] == "started" and record["status"] not in ENDED and record["id"] not in left
            for record in records
        ),
        "accounts or queues whose count of slots is wrong": sum(subject.in_use != counted[subject.id] for subject in subjects),
    }


async def run(postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> bool:
    seed = options.seed
    async with running_paced(postgres, folder, seed) as paced:
        reminded, words = await remind(paced.fleet, seed, options.window, options.pace)
        print(f"seed {seed}: {words}")
        queued, words = await hold_in_twilios_queue(paced.fleet, min(options.window, 10))
        print(f"  {words}")
        await paced.make_faulty(options.share)
        began = time.monotonic()
        creations = await disturb(paced, options)
        placed = time.monotonic() - began
        records = await end(paced)
        whole = time.monotonic() - began
        async with http_client(base_url=paced.fleet.simulator_url) as http:
            ledger = (await http.get("/_simulator/ledger")).raise_for_status().json()["entries"]
            callbacks = await answers_to_callbacks(http)
        subjects, left = await read_subjects(postgres, TENANT)
    entries = [entry for entry in ledger if entry["account_sid"] in {subject.name for subject in subjects}]
    rang, dialled = calls_that_rang(entries), dialled_calls(entries, subjects)
    waiting = [record for record in records if waits_for_tomorrow(record)]
    times, latest = times_kept(records, dialled)
    rang_to = {call.entry["to"] for call in dialled}
    found = {
        **verdict([record for record in records if record not in waiting], rang, set()),
        "rang after a confirmed cancellation": len(paced.canceled & rang.keys()),
        "rang although every answer was paced": len(paced.refused & rang_to),
        **times,
        **paces_kept(subjects, dialled, entries),
        **slots_kept(subjects, left, records),
        **reminded,
        **queued,
        **refused_callbacks(callbacks),
        "answers 500": paced.errors,
    }
    print(f"  {creations} creations in {placed:.0f} s, all over in {whole:.0f} s")
    describe(paced, records, subjects, entries)
    print(f"  times       the latest creation is {-latest:.2f} s before its ring_by")
    return report(found)


async def disturb(paced: Paced, options: argparse.Namespace) -> int:
    """Creates calls while Postgres is disturbed, and while API processes and workers are killed. Returns the number of calls.

    The kills of API processes and of workers are independent of each other.
    """
    fleet, seed, pause_s, done = paced.fleet, options.seed, (options.pause / 2, options.pause * 1.5), asyncio.Event()
    async with (
        disturbed(
            fleet,
            seed,
            lambda: paced.placed / options.creations,
            options.rounds,
            kinds="api",
            pause_s=pause_s,
            max_kills=options.kills,
        ) as disturbances,
        asyncio.TaskGroup() as killing,
    ):
        killing.create_task(fleet.kill_at_random(seed, done, kinds="worker", pause_s=pause_s, max_kills=options.kills))
        numbers = CreationNumbers(options.creations, disturbances)
        await place_all(paced, numbers, clients=options.clients)
        done.set()
    return numbers.count


def describe(
    paced: Paced, records: Sequence[Mapping[str, Any]], subjects: Sequence[Subject], entries: Sequence[Mapping[str, Any]]
) -> None:
    faults = Counter(entry["fault"] for entry in entries if entry["fault"])
    print(f"  disturbed   {dict(paced.fleet.killed)}")
    print(f"  answers     {dict(sorted(paced.answers.items()))}")
    print(f"  canceled    {len(paced.canceled)} confirmed")
    print(
        f"  simulator   {len(entries)} POSTs, {sum(entry['accepted'] for entry in entries)} accepted, {faults.total()} faulty"
    )
    print(f"  records     {dict(Counter(record['execution'] for record in records))}")
    print(f"  settled by  {dict(Counter(record['settled_by'] for record in records))}")
    for subject in subjects:
        limits = f"{subject.calls_per_second} calls/s, burst {subject.burst}, {subject.max_concurrent} at once"
        seen = f"{len(subject.grants)} grants, burst {subject.needed_burst}, {subject.most_concurrent} at once"
        print(f"  {subject.name[:11]:<11} {limits}: {seen}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--creations", type=int, default=2400)
    options.add_argument("--share", type=float, default=0.15, help="of the creations that get a fault")
    options.add_argument("--clients", type=int, default=16)
    options.add_argument("--pause", type=float, default=6.0, help="seconds between two kills of workers, and of API processes")
    options.add_argument("--kills", type=float, default=math.inf, help="of workers, and of API processes, at most")
    options.add_argument("--window", type=float, default=30.0, help="seconds in which the reminders may ring")
    options.add_argument("--pace", type=float, default=1.0, help="calls per second of the reminders")
    prove(run, options.parse_args())


if __name__ == "__main__":
    main()
