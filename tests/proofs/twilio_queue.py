"""Calls that are still in Twilio's own queue at their `ring_by`: Callgate cancels them, so they do not ring."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from tests.proofs.fleet import TOKEN, Fleet, all_records, make_tenant
from tests.proofs.reminders import LATE_MARGIN_S
from tests.support.clients import http_client

TENANT, ACCOUNT = "queued", "AC" + "f" * 32
CALLS_PER_SECOND = 2
_LEAD_S = 5.0
_PATIENCE_S = 120.0
_OVER = {"completed", "busy", "failed", "no-answer", "canceled"}


async def hold_in_twilios_queue(fleet: Fleet, window_s: float) -> tuple[dict[str, int], str]:
    """Grants all calls at once, on an account for which Twilio dials only half of them within `window_s` seconds.

    Returns how often each promise was broken, and a sentence about what happened.
    """
    key = await make_tenant(fleet.environment, TENANT, ACCOUNT)
    await fleet.tell_simulator(**{f"accounts/{ACCOUNT}": {"auth_token": TOKEN, "api_keys": {}}})
    await fleet.tell_simulator(**{f"accounts/{ACCOUNT}/limits": {"calls_per_second": CALLS_PER_SECOND}})
    number = int(2 * CALLS_PER_SECOND * window_s)
    async with http_client(base_url=fleet.gateway_url, headers={"Authorization": f"Bearer {key}"}) as http:
        not_before = datetime.now(UTC) + timedelta(seconds=_LEAD_S)
        ring_by = not_before + timedelta(seconds=window_s)
        await asyncio.gather(*(_schedule(http, each, not_before, ring_by) for each in range(number)))
        records = await all_records(http)
        async with asyncio.timeout(_PATIENCE_S):
            while not all(_is_over(record) for record in records):
                await asyncio.sleep(0.5)
                records = await all_records(http)
    async with http_client(base_url=fleet.simulator_url, auth=(ACCOUNT, TOKEN)) as http:
        sids = [record["sid"] for record in records if record["sid"]]
        paths = [f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{sid}.json" for sid in sids]
        calls = [(await http.get(path)).raise_for_status().json() for path in paths]
    rang = [parsedate_to_datetime(call["start_time"]) for call in calls if call["start_time"]]
    canceled = sum(call["status"] == "canceled" and not call["start_time"] for call in calls)
    # Twilio shows whole seconds.
    late = sum(at > ring_by + timedelta(seconds=LATE_MARGIN_S) for at in rang)
    found = {
        "calls in Twilio's queue that rang late": late,
        "calls in Twilio's queue neither rung nor canceled": len(sids) - len(rang) - canceled,
        "runs in which Twilio held no call at ring_by": int(not canceled),
    }
    words = (
        f"{len(sids)} of {number} dialled at once, of which Twilio dials {CALLS_PER_SECOND} a second within {window_s:g} s: "
        f"{len(rang)} rang, {canceled} were canceled in Twilio's queue"
    )
    return found, words


def _is_over(record: Mapping[str, Any]) -> bool:
    """Returns whether the call has ended. On a slow machine it may also expire before it is dialled."""
    return record["execution"] == "not_started" or (record["execution"] == "started" and record["status"] in _OVER)


async def _schedule(http: httpx.AsyncClient, number: int, not_before: datetime, ring_by: datetime) -> None:
    body = {
        "to": f"sip:kate@queued-{number}.example.com",
        "from": "Jack",
        "url": "http://www.example.com/sipdial.xml",
        "not_before": not_before.isoformat(),
        "ring_by": ring_by.isoformat(),
    }
    (await http.post("/v1/calls", json=body)).raise_for_status()
