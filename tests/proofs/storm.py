"""Proves that callbacks reach the tenant in a storm: `python -m tests.proofs.storm --calls 2000 --seed 1`.

Two API processes and two workers run over one Postgres. The simulator shuffles, doubles and loses callbacks. Its list lags,
shows older states, omits calls and moves its pages while workers read it. Two tenants, one for each format of delivery, have a
receiver that fails a fifth of the requests. Workers are killed all the while, and tests.proofs.disturbances disturbs Postgres
and the API. At the end every record is compared with the simulator's call, and every delivery with what the receiver got.
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from app.local.postgres import EmbeddedPostgres
from tests.proofs.chaos import SHUFFLED
from tests.proofs.disturbances import CreationNumbers, acknowledge_before_flush, disturbed
from tests.proofs.fleet import (
    ACCOUNT,
    TOKEN,
    Fleet,
    all_records,
    choose_form,
    make_tenant,
    refused_callbacks,
    running_fleet,
)
from tests.proofs.proof import parser, prove, report
from tests.proofs.receiver import Received, Receiver, receiving
from tests.support.clients import http_client

TENANTS = {"storm-twilio": "twilio", "storm-json": "json"}
EVENTS = ["initiated", "ringing", "answered", "completed"]
EVENT_OF = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}
RANK = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3}
ENDED = 4
USERS = ["kate", "kate", "kate", "kate", "busy", "no-answer", "failed"]
# The list shows some calls late, in an older state or not at all.
LIST_FAULTS = {"lag_s": [0, 5], "stale_s": [0, 5], "omit_share": 0.1, "moving_pages": True}
CLIENTS = 12
PATIENCE_S = 600.0
SETTINGS = {
    "CALLGATE_DELIVERY_ALLOW": "127.0.0.0/8",
    # Ten attempts take six minutes, so that a delivery that the receiver refuses nine times is not taken for lost.
    "CALLGATE_DELIVERY_FIRST_RETRY": "0.03",
    "CALLGATE_REFRESH_INTERVAL": "1",
    "CALLGATE_TWILIO_READ_TIMEOUT": "10",
    "CALLGATE_REQUEST_BUDGET": "20",
    "CALLGATE_RESOLVE_SEARCHES": "4",
    "CALLGATE_RESOLVE_PERIOD": "60",
}


@dataclass
class Storm:
    fleet: Fleet
    receiver: Receiver
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)
    """The HTTP clients by tenant."""
    answers: Counter[int] = field(default_factory=Counter)
    """The number of answers to creations, by status."""


@dataclass
class Seen:
    """What Callgate and the simulator know after the storm: records, events, deliveries, calls, callbacks, request counts."""

    records: list[dict[str, Any]]
    events: dict[str, list[dict[str, Any]]]
    deliveries: dict[str, list[dict[str, Any]]]
    truth: dict[str, dict[str, Any]]
    """The simulator's calls, by SID."""
    sent: list[dict[str, Any]]
    """All callbacks of the simulator: those that it sent, and those that it lost on purpose."""
    requests: dict[str, int]
    """The number of requests to the simulator, by method and resource."""


@asynccontextmanager
async def storming(postgres: EmbeddedPostgres, folder: Path, seed: int) -> AsyncIterator[Storm]:
    receiver = Receiver(failing_share=0.2, choice=random.Random(seed))
    async with receiving(receiver), running_fleet(postgres, folder, SETTINGS) as fleet:
        await fleet.tell_simulator(callbacks=SHUFFLED | {"lose": 0.05, "seed": seed})
        await fleet.tell_simulator(listing={**LIST_FAULTS, "seed": seed})
        storm = Storm(fleet, receiver)
        await asyncio.gather(*(add_tenant(storm, tenant, form) for tenant, form in TENANTS.items()))
        try:
            yield storm
        finally:
            for client in storm.clients.values():
                await client.aclose()


async def add_tenant(storm: Storm, tenant: str, form: str) -> None:
    fleet = storm.fleet
    headers = {"Authorization": f"Bearer {await make_tenant(fleet.environment, tenant)}"}
    storm.receiver.secrets[tenant] = await choose_form(fleet.environment, tenant, form)
    storm.clients[tenant] = http_client(base_url=fleet.gateway_url, headers=headers)


async def place(storm: Storm, number: int, seed: int, *, until_known: bool = False) -> bool:
    """Creates a call, and repeats the request while its answer is an error. Returns whether the call's outcome is unknown.

    With `until_known`, also repeats the request while the outcome is unknown. If Twilio has certainly not processed the first
    request, the repetition places the call.
    """
    choice = random.Random(f"{seed}/{number}")
    tenant, form = list(TENANTS.items())[number % len(TENANTS)]
    # A destination of its own, so that the faults of its callbacks repeat by seed.
    body = {
        "to": f"sip:{choice.choice(USERS)}@{number}.example.com",
        "from": "Jack",
        "url": "http://www.example.com/sipdial.xml",
        "timeout": 5,
        "status_callback": f"{storm.receiver.url}/{form}/{tenant}",
        "status_callback_event": EVENTS,
        "status_callback_method": choice.choice(["GET", "POST"]),
    }
    while True:
        response = await storm.clients[tenant].post("/v1/calls", json=body, headers={"Idempotency-Key": f"storm-{number}"})
        storm.answers[response.status_code] += 1
        # A 503: nothing was started, or an earlier request is in progress. The key prevents a second call.
        answer = response.json()
        is_unknown: bool = answer.get("execution") == "unknown"
        is_pending = answer.get("type") == "urn:callgate:problem:call-pending"
        if response.status_code < 500 and not is_pending and not (is_unknown and until_known):
            break
        await asyncio.sleep(choice.uniform(0.05, 0.5))
    assert response.status_code in (200, 201, 202), response.text
    return is_unknown


async def ended(storm: Storm) -> None:
    """Waits until every call of the simulator has ended and its last callback was sent."""
    async with http_client(base_url=storm.fleet.simulator_url) as http:
        while True:
            # After the newest one, so that the answer has only the counts.
            shown = (await http.get("/_simulator/callbacks", params={"after": 10**9})).raise_for_status().json()
            if not shown["waiting"] and not shown["sending"]:
                return
            await asyncio.sleep(0.5)


async def settled(storm: Storm) -> None:
    """Waits until records have end, times and price, and no delivery is pending, for at most PATIENCE_S seconds."""
    deadline = time.monotonic() + PATIENCE_S
    for client in storm.clients.values():
        while time.monotonic() < deadline:
            going = [record for record in await all_records(client) if not _is_complete(record)]
            if not going:
                break
            await _show_progress(f"{len(going)} calls without an end, its times or a price")
    for client in storm.clients.values():
        open_ = await all_records(client)
        while open_ and time.monotonic() < deadline:
            shown = await _of_each(client, open_, "deliveries")
            open_ = [record for record in open_ if not _has_delivered_end(shown[record["id"]])]
            await _show_progress(f"{len(open_)} calls with deliveries to come")
    print()


async def _show_progress(text: str) -> None:
    print(f"\r{text}   ", end="", flush=True)
    await asyncio.sleep(2)


def _is_complete(record: Mapping[str, Any]) -> bool:
    has_ended = RANK.get(record["status"] or "queued", ENDED) == ENDED and record["start_time"] and record["end_time"]
    return bool(has_ended and (record["price"] or record["status"] != "completed"))


def _has_delivered_end(deliveries: list[dict[str, Any]]) -> bool:
    is_over = all(one["state"] != "pending" for one in deliveries)
    return is_over and any(one["event"] == "completed" for one in deliveries)


async def _of_each(client: httpx.AsyncClient, records: Iterable[dict[str, Any]], what: str) -> dict[str, list[dict[str, Any]]]:
    waiting, found = iter(list(records)), {}

    async def worker() -> None:
        for record in waiting:
            answer = (await client.get(f"/v1/calls/{record['id']}/{what}")).raise_for_status().json()
            found[record["id"]] = answer[what]

    await asyncio.gather(*(worker() for _ in range(CLIENTS)))
    return found


async def look(storm: Storm) -> Seen:
    seen = Seen([], {}, {}, {}, [], {})
    for client in storm.clients.values():
        records = await all_records(client)
        seen.records += records
        seen.events |= await _of_each(client, records, "events")
        seen.deliveries |= await _of_each(client, records, "deliveries")
    async with http_client(base_url=storm.fleet.simulator_url, auth=(ACCOUNT, TOKEN)) as http:
        seen.requests = (await http.get("/_simulator/requests")).raise_for_status().json()
        await storm.fleet.tell_simulator(listing={})
        page: str | None = f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json?PageSize=1000"
        while page:
            answer = (await http.get(page)).raise_for_status().json()
            seen.truth |= {call["sid"]: call for call in answer["calls"]}
            page = answer["next_page_uri"]
        seen.sent = (await http.get("/_simulator/callbacks")).raise_for_status().json()["deliveries"]
    return seen


def verdict(seen: Seen, received: list[Received], calls: int) -> dict[str, int]:
    """Compares what was sent, received and recorded. Returns how often each promise was broken."""
    call_of = {record["sid"]: record["id"] for record in seen.records}
    # If all copies of a callback were lost, only the end can be delivered: the refresh finds it.
    delivered = {(sent["call_sid"], sent["event"]) for sent in seen.sent if sent["delivered"]}
    # Postgres may have committed a callback that was answered 503 nevertheless.
    attempted = {(sent["call_sid"], sent["event"]) for sent in seen.sent if not sent["lost"]}
    expected = delivered | {(record["sid"], "completed") for record in seen.records}
    taken = {(one.call_sid, EVENT_OF.get(one.call_status, "completed")) for one in received if one.answered == 204}
    ids: dict[tuple[str, str], set[str]] = {}
    meant: dict[str, set[tuple[str, str]]] = {}
    for one in received:
        event = one.call_sid, EVENT_OF.get(one.call_status, "completed")
        ids.setdefault(event, set()).add(one.webhook_id)
        meant.setdefault(one.webhook_id, set()).add(event)
    return {
        "calls without their record": calls - sum(record["sid"] in seen.truth for record in seen.records),
        "records without the true final status": sum(
            record["status"] != seen.truth.get(record["sid"], {}).get("status") for record in seen.records
        ),
        "records without the true duration, price or times": sum(
            _facts(record) != _facts(seen.truth.get(record["sid"], {})) for record in seen.records
        ),
        "calls whose status went backwards": sum(went_backwards(events) for events in seen.events.values()),
        "deliveries lost": len(expected - taken),
        "deliveries of events that did not happen": len(taken - expected - attempted),
        "deliveries not shown as delivered": sum(
            one["state"] != "delivered" for shown in seen.deliveries.values() for one in shown
        )
        + sum(call_of.get(sid) is None for sid, _ in taken),
        "events with more than one webhook id": sum(len(found) > 1 for found in ids.values()),
        "webhook ids of more than one event": sum(len(events) > 1 for events in meant.values()),
        "requests with a wrong signature": sum(not one.is_signed for one in received),
    }


def _facts(call: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Returns duration, price, `to`, start and end of a call, in the same format for Callgate's records and Twilio's resources.

    Callgate knows these values only from Twilio's resource.
    """
    numbers = [None if call.get(name) is None else str(call[name]) for name in ("duration", "price")]
    return *numbers, call.get("to"), *map(_moment, (call.get("start_time"), call.get("end_time")))


def _moment(text: str | None) -> str | None:
    if text is None:
        return None
    return (parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text)).isoformat()


def went_backwards(events: list[dict[str, Any]]) -> bool:
    ranks = [RANK.get(event["data"]["status"], ENDED) for event in events if event["type"] == "call.status"]
    return ranks != sorted(ranks) or ranks.count(ENDED) > 1


async def run(postgres: EmbeddedPostgres, folder: Path, options: argparse.Namespace) -> bool:
    seed, pause = options.seed, options.pause
    await acknowledge_before_flush(postgres)
    async with storming(postgres, folder, seed) as storm:
        began = time.monotonic()
        placed_calls, unknown = 0, list[int]()

        async def client(numbers: CreationNumbers) -> None:
            nonlocal placed_calls
            async for number in numbers:
                if await place(storm, number, seed):
                    unknown.append(number)
                placed_calls += 1

        async with disturbed(
            storm.fleet,
            seed,
            lambda: placed_calls / options.calls,
            options.rounds,
            kinds="worker",
            pause_s=(pause / 2, pause * 1.5),
        ) as disturbances:
            numbers = CreationNumbers(options.calls, disturbances)
            await asyncio.gather(*(client(numbers) for _ in range(CLIENTS)))
            calls = numbers.count
            placed = time.monotonic() - began
            await ended(storm)
        killed_for = time.monotonic() - began
        for number in unknown:
            await place(storm, number, seed, until_known=True)
        await ended(storm)
        await settled(storm)
        whole = time.monotonic() - began
        seen = await look(storm)
        callbacks = Counter(attempt["answer_status"] for sent in seen.sent for attempt in sent["attempts"])
        found = verdict(seen, storm.receiver.received, calls) | refused_callbacks(callbacks)
        found |= {"answers 500": storm.answers[500] + callbacks[500]}
        describe(storm, seen)
    print(f"  seed {seed}: {calls} calls placed in {placed:.0f} s; kills for {killed_for:.0f} s; all in {whole:.0f} s")
    return report(found)


def describe(storm: Storm, seen: Seen) -> None:
    received = storm.receiver.received
    answers = Counter("dropped" if one.answered is None else str(one.answered) for one in received)
    lost, twice = (sum(sent[what] for sent in seen.sent) for what in ("lost", "is_duplicate"))
    events = {(one.call_sid, one.call_status) for one in received}
    print(f"  disturbed   {dict(storm.fleet.killed)}")
    print(f"  answers     {dict(sorted(storm.answers.items()))}")
    print(f"  statuses    {dict(Counter(call['status'] for call in seen.truth.values()))}")
    print(f"  requests    {seen.requests}")
    print(f"  callbacks   {len(seen.sent)} from the simulator, {lost} lost, {twice} twice")
    print(f"  deliveries  {len(received)} requests for {len(events)} events, answered {dict(sorted(answers.items()))}")
    deliveries = [one for shown in seen.deliveries.values() for one in shown]
    print(f"  attempts    {dict(sorted(Counter(one['attempts'] for one in deliveries).items()))}")
    print(f"  by refresh  {sum(one['sequence'] is None for one in deliveries)} ends delivered without a callback")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, default=2000)
    options.add_argument("--pause", type=float, default=15.0, help="seconds between two kills; a worker has to come up, too")
    prove(run, options.parse_args())


if __name__ == "__main__":
    main()
