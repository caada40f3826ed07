"""Reminders that must ring within a short time, on an account whose pace is too slow for all of them: most expire."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import httpx

from tests.proofs.chaos import FINAL
from tests.proofs.fleet import TOKEN, Fleet, all_records, make_tenant, set_pace
from tests.support.clients import http_client

TENANT, ACCOUNT, QUEUE = "reminders", "AC" + "e" * 32, "reminders"
REMINDERS, URGENT = 100, 5
BURST = 2
# From the gateway's last look at the clock to the simulator's. Both run on this machine, which is busy.
LATE_MARGIN_S = 2.0
_CLIENTS = 8
_LEAD_S = 10.0


async def remind(fleet: Fleet, seed: int, window_s: float, calls_per_second: float) -> tuple[dict[str, int], str]:
    """Schedules REMINDERS calls that may ring for `window_s` seconds, and waits until each is dialled or has expired.

    The queue is paused until all are scheduled. Returns how often each promise was broken, and a sentence about what happened.
    """
    key = await make_tenant(fleet.environment, TENANT, ACCOUNT)
    await fleet.tell_simulator(**{f"accounts/{ACCOUNT}": {"auth_token": TOKEN, "api_keys": {}}})
    await set_pace(fleet.environment, TENANT, ACCOUNT, calls_per_second=calls_per_second, burst=BURST)
    headers = {"Authorization": f"Bearer {key}"}
    async with http_client(base_url=fleet.gateway_url, headers=headers) as http:
        (await http.put(f"/v1/queues/{QUEUE}", json={"paused": True})).raise_for_status()
        begin = datetime.now(UTC) + timedelta(seconds=_LEAD_S)
        ring_by = begin + timedelta(seconds=window_s)
        await _schedule(http, seed, ring_by)
        await asyncio.sleep((begin - datetime.now(UTC)).total_seconds())
        (await http.put(f"/v1/queues/{QUEUE}", json={"paused": False})).raise_for_status()
        records = await all_records(http)
        while any(record["execution"] not in FINAL for record in records):
            await asyncio.sleep(1)
            records = await all_records(http)
        granted_at = {record["id"]: await _first_grant(http, record["id"]) for record in records}
    async with http_client(base_url=fleet.simulator_url) as http:
        ledger = (await http.get("/_simulator/ledger", params={"account_sid": ACCOUNT})).raise_for_status().json()
    rang = [entry for entry in ledger["entries"] if entry["accepted"]]
    lateness = [datetime.fromisoformat(entry["received_at"]) - ring_by for entry in rang]
    urgent = [granted_at[record["id"]] for record in records if record["parameters"]["priority"] == "urgent"]
    others = [at for record in records if record["parameters"]["priority"] != "urgent" and (at := granted_at[record["id"]])]
    expired = sum(record["settled_by"] == "expired" for record in records)
    most = int(BURST + window_s * calls_per_second)
    found = {
        "reminders dialled beyond the pace": max(0, len(rang) - most),
        "reminders dialled late": sum(late > timedelta(seconds=LATE_MARGIN_S) for late in lateness),
        "reminders neither dialled nor expired": REMINDERS - len(rang) - expired,
        "reminders dialled before urgent ones": sum(at is None or at > min(others, default=at) for at in urgent),
    }
    last = -max(lateness).total_seconds() if lateness else 0.0
    words = (
        f"{REMINDERS} at {calls_per_second:g} calls/s within {window_s:g} s: {len(rang)} dialled (at most {most}), "
        f"{expired} expired, the last one {last:.1f} s before ring_by"
    )
    return found, words


async def _schedule(http: httpx.AsyncClient, seed: int, ring_by: datetime) -> None:
    urgent = random.Random(seed).sample(range(REMINDERS), URGENT)
    waiting = iter(range(REMINDERS))

    async def client() -> None:
        for number in waiting:
            body = {
                "to": f"sip:kate@reminder-{number}.example.com",
                "from": "Jack",
                "url": "http://www.example.com/sipdial.xml",
                "queue": QUEUE,
                "ring_by": ring_by.isoformat(),
                "priority": "urgent" if number in urgent else "normal",
            }
            (await http.post("/v1/calls", json=body)).raise_for_status()

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))


async def _first_grant(http: httpx.AsyncClient, call_id: str) -> datetime | None:
    events = (await http.get(f"/v1/calls/{call_id}/events")).raise_for_status().json()["events"]
    times = [datetime.fromisoformat(event["at"]) for event in events if event["type"] == "call.pending"]
    return min(times, default=None)
