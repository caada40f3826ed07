"""Measures how much the failing receivers of tenants delay another tenant's deliveries: `python -m bench.isolation --calls 60`.

There are three tenants. The first tenant's receiver accepts every request and never answers, the second tenant's receiver
refuses connections, and the third tenant's receiver works. The third tenant's callbacks are timed from the simulator of Twilio
to the receiver: first alone, then while the first two tenants have more deliveries due than can be sent at once. Two API
processes and two workers run, with real sockets.
"""

import argparse
import asyncio
import statistics
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx

from app.local.postgres import EmbeddedPostgres
from app.schema import migrate
from tests.proofs.balancer import free_port
from tests.proofs.fleet import Fleet, choose_form, make_tenant, running_fleet
from tests.proofs.receiver import Receiver, receiving

EVENTS = ["initiated", "ringing", "answered", "completed"]
SETTINGS = {"CALLGATE_DELIVERY_ALLOW": "127.0.0.0/8"}
BACKLOG_CALLS = 60
"""How many calls each tenant with a failing receiver creates.

A call has three deliveries. The two workers together send at most 24 deliveries of a tenant at once.
"""
PATIENCE_S = 60.0


@dataclass
class Tenant:
    name: str
    url: str
    http: httpx.AsyncClient
    placed: int = 0

    async def create_calls(self, calls: int, *, each_s: float = 0.0) -> None:
        for _ in range(calls):
            self.placed += 1
            body = {
                "to": f"sip:busy@{self.placed}.{self.name}.example.com",
                "from": "Jack",
                "url": "http://www.example.com/sipdial.xml",
                "status_callback": self.url,
                "status_callback_event": EVENTS,
            }
            (await self.http.post("/v1/calls", json=body)).raise_for_status()
            await asyncio.sleep(each_s)


@dataclass
class Round:
    name: str
    lags: list[float] = field(default_factory=list)
    missing: int = 0
    hanging: int = 0

    def table_line(self) -> str:
        percentiles = statistics.quantiles(self.lags, n=100)
        p50, p99 = percentiles[49] * 1000, percentiles[98] * 1000
        return f"  {self.name:<36} {len(self.lags):>5} {p50:>8.0f} {p99:>8.0f} {max(self.lags) * 1000:>8.0f} {self.missing:>8}"


async def measure(name: str, fleet: Fleet, receiver: Receiver, tenant: Tenant, calls: int) -> Round:
    """Places `calls` calls, and times each of their callbacks from the simulator to the tenant's receiver."""
    before = len(receiver.received)
    async with httpx.AsyncClient(base_url=fleet.simulator_url, timeout=60) as http:
        seen = (await http.get("/_simulator/callbacks", params={"after": 10**9})).raise_for_status().json()["begun"]
        await tenant.create_calls(calls, each_s=0.5)
        owed: dict[tuple[str, str], float] = {}
        for _ in range(int(PATIENCE_S * 2)):
            await asyncio.sleep(0.5)
            shown = (await http.get("/_simulator/callbacks", params={"after": seen})).raise_for_status().json()["deliveries"]
            owed = {
                (one["call_sid"], one["call_status"]): datetime.fromisoformat(one["attempts"][0]["sent_at"]).timestamp()
                for one in shown
                if one["delivered"] and f".{tenant.name}." in one["fields"]["To"]
            }
            taken = {(one.call_sid, one.call_status): one.at for one in receiver.received[before:]}
            if len(owed) == 3 * calls and owed.keys() <= taken.keys():
                break
    lags = [taken[event] - sent for event, sent in owed.items() if event in taken]
    return Round(name, lags, missing=3 * calls - len(lags), hanging=receiver.hanging)


async def run(postgres: EmbeddedPostgres, folder: Path, calls: int) -> bool:
    async with receiving(Receiver()) as receiver, running_fleet(postgres, folder, SETTINGS, speed=2) as fleet:
        dead = f"http://127.0.0.1:{free_port()}/dead"
        urls = {"well": f"{receiver.url}/twilio/well", "hangs": f"{receiver.url}/hang/hangs", "dead": dead}
        tenants = {}
        for name, url in urls.items():
            headers = {"Authorization": f"Bearer {await make_tenant(fleet.environment, name)}"}
            receiver.secrets[name] = await choose_form(fleet.environment, name, "twilio")
            tenants[name] = Tenant(name, url, httpx.AsyncClient(base_url=fleet.gateway_url, headers=headers, timeout=60))
        try:
            await tenants["well"].create_calls(10)  # to warm up
            await asyncio.sleep(5)
            alone = await measure("alone", fleet, receiver, tenants["well"], calls)
            await asyncio.gather(tenants["hangs"].create_calls(BACKLOG_CALLS), tenants["dead"].create_calls(BACKLOG_CALLS))
            while not receiver.hanging:
                await asyncio.sleep(0.1)
            beside = await measure("beside one that hangs and one dead", fleet, receiver, tenants["well"], calls)
        finally:
            for tenant in tenants.values():
                await tenant.http.aclose()
    print(f"  {'milliseconds to the receiver':<36} {'n':>5} {'p50':>8} {'p99':>8} {'max':>8} {'missing':>8}")
    for each in (alone, beside):
        print(each.table_line())
    print(f"  requests that hung meanwhile: {beside.hanging}; ratio of the medians: ", end="")
    print(f"{statistics.median(beside.lags) / statistics.median(alone.lags):.2f}")
    return not alone.missing and not beside.missing and beside.hanging > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="callgate-isolation-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's Postgres runs as the user nobody
        with EmbeddedPostgres(folder) as postgres:
            migrate(postgres.url)
            if not asyncio.run(run(postgres, folder, arguments.calls)):
                raise SystemExit("a delivery did not arrive")


if __name__ == "__main__":
    main()
