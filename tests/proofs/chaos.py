"""Proves the promises while processes and Postgres are killed: `python -m tests.proofs.chaos --creations 3000 --seed 1`.

Two API processes and two workers run over one Postgres. A simulator fails a third of the creations in every way it knows,
clients disconnect and repeat, and SIGKILL hits at random. Postgres is restarted, crashes under `synchronous_commit=off`, is
read-only for seconds, loses its sessions, and keeps a row locked; an API process is frozen. At the end every record is compared
with the simulator's ledger, which says what really rang. The same seed gives the same random choices, but the processes may
run in another order.
"""

import argparse
import asyncio
import contextlib
import math
import random
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.local.postgres import EmbeddedPostgres
from tests.proofs.disturbances import CreationNumbers, acknowledge_before_flush, disturbed
from tests.proofs.fleet import (
    Fleet,
    all_records,
    answers_to_callbacks,
    callbacks_of,
    make_tenant,
    refused_callbacks,
    running_fleet,
    wait_until_up,
)
from tests.proofs.proof import parser, prove, report
from tests.support.clients import http_client

TENANT = "chaos"
SETTLE_PATIENCE_S = 240.0
SEARCHES_AT_END = 3
# Made once: it is most of what a client costs.
TLS = ssl.create_default_context()
CLIENT_TIMEOUTS = (0.05, 0.5, 5.0)
FINAL = {"started", "not_started"}
SHUFFLED = {"shuffle": True, "duplicate": 0.1, "overlap": True}
"""Callbacks arrive in any order, some twice, and several of a call at once."""
SETTINGS = {"CALLGATE_RESOLVE_SEARCHES": "4", "CALLGATE_RESOLVE_PERIOD": "12", "CALLGATE_REFRESH_INTERVAL": "30"}


async def place(fleet: Fleet, key: str, number: int, seed: int, reported: dict[int, str], answers: Counter[int]) -> None:
    """Places one call like a client that disconnects early. It repeats the request under its key until it gets an answer."""
    choice = random.Random(f"{seed}/{number}")
    body = {"to": f"sip:kate{number // 3}@example.com", "from": "Jack", "url": "http://www.example.com/sipdial.xml"}
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"chaos-{number}"}
    for _ in range(200):
        async with httpx.AsyncClient(base_url=fleet.gateway_url, timeout=choice.choice(CLIENT_TIMEOUTS), verify=TLS) as http:
            with contextlib.suppress(httpx.HTTPError):
                response = await http.post("/v1/calls", json=body, headers=headers)
                answers[response.status_code] += 1
                answer = response.json()
                if response.status_code < 500 and answer.get("type") != "urn:callgate:problem:call-pending":
                    reported[number] = answer["execution"]
                    return
        await asyncio.sleep(choice.uniform(0.05, 0.5))
    reported[number] = "never answered"


@dataclass(frozen=True)
class SimulatorView:
    """What the simulator knows of the calls: its ledger of creations, and the callbacks that it has sent."""

    ledger: Mapping[str, Any]
    callbacks: Counter[int | None]
    """The number of attempts to send a callback, by the status of the answer."""
    heard: Set[str]
    """The ids of the records with an accepted callback."""

    @property
    def rang(self) -> dict[str, list[str]]:
        return calls_that_rang(self.ledger["entries"])


async def read_simulator(fleet: Fleet) -> SimulatorView:
    async with http_client(base_url=fleet.simulator_url) as http:
        ledger = (await http.get("/_simulator/ledger")).raise_for_status().json()
        callbacks = await answers_to_callbacks(http)
        heard = {_call_id(delivery["url"]) for delivery in await callbacks_of(http) if delivery["delivered"]}
    return SimulatorView(ledger, callbacks, heard)


async def settled_records(fleet: Fleet, key: str, creations: int) -> tuple[list[dict[str, Any]], SimulatorView]:
    """Waits until every record has a final outcome or is undecidable, for at most SETTLE_PATIENCE_S.

    An undecidable record must have been searched SEARCHES_AT_END times since the call of this function, so that a search that
    settles it wrongly is seen. Returns all records and what the simulator shows.
    """
    began = datetime.now(UTC)
    deadline = time.monotonic() + SETTLE_PATIENCE_S
    headers = {"Authorization": f"Bearer {key}"}
    async with http_client(base_url=fleet.gateway_url, headers=headers) as http:
        while True:
            records = await all_records(http)
            view = await read_simulator(fleet)
            open_ = {record["id"] for record in records if record["execution"] not in FINAL}
            print(f"\r{len(records)} of {creations} records, {len(open_)} not settled yet   ", end="", flush=True)
            is_over = open_ <= undecidable_records(records, view.rang, view.heard) and all(
                [await searches_since(http, call_id, began) >= SEARCHES_AT_END for call_id in open_]
            )
            if is_over or time.monotonic() > deadline:
                print()
                return records, view
            await asyncio.sleep(2)


async def searches_since(http: httpx.AsyncClient, call_id: str, began: datetime) -> int:
    """Returns how often Twilio's list was searched for the call since `began`, according to its events."""
    events = (await http.get(f"/v1/calls/{call_id}/events")).raise_for_status().json()["events"]
    return sum(event["type"] == "call.searched" and datetime.fromisoformat(event["at"]) > began for event in events)


def undecidable_records(records: list[dict[str, Any]], rang: Mapping[str, object], heard: Set[str]) -> set[str]:
    """Returns the ids of unknown records that nothing can settle: for them, `unknown` is the right result.

    A call to the record's address rang, and none of its callbacks was accepted during the disturbances (`heard` has the ids of
    records with an accepted callback). More than one record without a known call has this address, so each may have started it.
    """
    unknown = [record for record in records if record["execution"] == "unknown"]
    unheard = {record["to"] for record in unknown if record["id"] in rang and record["id"] not in heard}
    rivals = Counter(record["to"] for record in records if is_rival(record))
    return {record["id"] for record in unknown if record["to"] in unheard and rivals[record["to"]] > 1}


def is_rival(record: Mapping[str, Any]) -> bool:
    """Returns whether the record may have started a call of which Callgate does not know."""
    return record["execution"] in ("pending", "unknown") or record["settled_by"] == "none_found"


def calls_that_rang(entries: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns the sids of accepted creations, grouped by the id of the call's record."""
    rang: dict[str, list[str]] = {}
    for entry in entries:
        if entry["accepted"]:
            rang.setdefault(call_id_of(entry), []).append(entry["sid"])
    return rang


def call_id_of(entry: Mapping[str, Any]) -> str:
    """Returns the id of the record to which a ledger entry belongs, from the path of its callback URL."""
    return _call_id(entry["form"]["StatusCallback"][0])


def _call_id(callback_url: str) -> str:
    return urlsplit(callback_url).path.rpartition("/")[2]


def verdict(records: list[dict[str, Any]], rang: Mapping[str, list[str]], undecidable: Set[str]) -> dict[str, int]:
    """Compares the ledger with the records. Returns how often each promise was broken."""
    known = {record["id"]: record for record in records}
    return {
        "duplicate dials": sum(len(sids) - 1 for sids in rang.values()),
        "accepted calls without their record": sum(call_id not in known for call_id in rang),
        "records bound to the wrong sid": sum(
            record["sid"] is not None and record["sid"] not in rang.get(record["id"], []) for record in records
        ),
        "wrong not_started": sum(record["execution"] == "not_started" and record["id"] in rang for record in records),
        "records not settled": sum(record["execution"] not in FINAL and record["id"] not in undecidable for record in records),
    }


async def run(postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> bool:
    seed = options.seed
    began = time.monotonic()
    await acknowledge_before_flush(postgres)
    async with running_fleet(postgres, folder, SETTINGS) as fleet:
        await fleet.tell_simulator(faults={"share": options.share, "seed": seed}, callbacks=SHUFFLED | {"seed": seed})
        key = await make_tenant(fleet.environment, TENANT)
        reported: dict[int, str] = {}
        answers: Counter[int] = Counter()

        async def client(numbers: CreationNumbers) -> None:
            async for number in numbers:
                await place(fleet, key, number, seed, reported, answers)

        async with disturbed(
            fleet, seed, lambda: len(reported) / options.creations, options.rounds, max_kills=options.kills
        ) as disturbances:
            numbers = CreationNumbers(options.creations, disturbances)
            await asyncio.gather(*(client(numbers) for _ in range(options.clients)))
        creations = numbers.count
        placed = time.monotonic() - began
        await wait_until_up(fleet.gateway_url, "/readyz")
        records, view = await settled_records(fleet, key, creations)
    ledger, callbacks, rang = view.ledger, view.callbacks, view.rang
    undecidable = undecidable_records(records, rang, view.heard)
    found = verdict(records, rang, undecidable) | refused_callbacks(callbacks)
    found |= {"answers 500": answers[500] + callbacks[500]}
    faults = Counter(entry["fault"] for entry in ledger["entries"] if entry["fault"])
    whole = time.monotonic() - began
    print(f"seed {seed}: {creations} creations by {options.clients} clients in {placed:.0f} s, all in {whole:.0f} s")
    print(f"  disturbed   {dict(fleet.killed)}")
    print(f"  answers     {dict(sorted(answers.items()))}, to callbacks {dict(callbacks)}")
    print(f"  undecidable {len(undecidable)}: no callback was accepted, and another creation may be meant")
    print(f"  reported    {dict(Counter(reported.values()))}")
    print(f"  simulator   {ledger['received']} POSTs, {ledger['accepted']} accepted, {faults.total()} of them faulty")
    print(f"  faults      {dict(sorted(faults.items()))}")
    print(f"  records     {dict(Counter(record['execution'] for record in records))}")
    print(f"  settled by  {dict(Counter(record['settled_by'] for record in records))}")
    return report(found) and len(records) == creations


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--creations", type=int, default=3000)
    options.add_argument("--share", type=float, default=0.3, help="of the creations that get a fault")
    options.add_argument("--clients", type=int, default=24)
    options.add_argument("--kills", type=float, default=math.inf, help="of processes, at most")
    prove(run, options.parse_args())


if __name__ == "__main__":
    main()
