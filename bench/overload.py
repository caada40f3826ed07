"""Measures goodput (calls created per second) under overload: `python -m bench.overload`.

The bench runs one API process and a stand-in for Twilio that takes 100 ms for an answer. Requests arrive at a fixed rate,
whether or not earlier ones were answered. Compare the ratios within one run, not the absolute numbers.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass, field

from bench.connections import ConnectionPool, raw_creation_request
from bench.one_api import Api, run_with_api
from bench.report import markdown_table

UPSTREAM_S = 0.1
ROUND_S = 8.0
MAX_IN_FLIGHT = 32
RATES = (20, 40, 60, 80, 100, 130, 160, 200)
COLUMNS = ("arriving/s", "goodput/s", "of best", "refused", "refused, median ms", "other", "memory MiB")


@dataclass
class Round:
    rate: float
    created: int = 0
    refused: list[float] = field(default_factory=list)
    """The seconds until the answer, for each request that the API refused because it was overloaded."""
    other: int = 0
    memory_mib: float = 0.0

    @property
    def goodput(self) -> float:
        return self.created / ROUND_S

    def cells(self, best: float) -> list[str]:
        median_ms = statistics.median(self.refused) * 1000 if self.refused else 0
        shares = [f"{self.rate:.0f}", f"{self.goodput:.1f}", f"{self.goodput / best:.2f}"]
        return [*shares, str(len(self.refused)), f"{median_ms:.0f}", str(self.other), f"{self.memory_mib:.0f}"]


async def measure(api: Api, key: str, rate: float) -> Round:
    """Sends requests to create a call for ROUND_S seconds, `rate` a second. Does not wait for the answers to earlier ones.

    Each request uses an idle connection or opens a new one. Returns the counts of the answers.
    """
    result = Round(rate)
    connections, request = ConnectionPool(api.port), raw_creation_request(key)

    async def one() -> None:
        began = time.perf_counter()
        try:
            status, answer = await connections.ask(request)
        except (OSError, asyncio.IncompleteReadError):
            result.other += 1
            return
        if status == 201:
            result.created += 1
        elif b":overloaded" in answer:
            result.refused.append(time.perf_counter() - began)
        else:
            result.other += 1

    began = time.perf_counter()
    arrivals: list[asyncio.Task[None]] = []
    while (passed := time.perf_counter() - began) < ROUND_S:
        while len(arrivals) < passed * rate:
            arrivals.append(asyncio.create_task(one()))
        await asyncio.sleep(0.005)
    result.memory_mib = api.resident_mib()
    await asyncio.gather(*arrivals)
    connections.close()
    return result


async def run(api: Api) -> None:
    key = await api.make_tenant("overload")
    rounds = [await measure(api, key, rate) for rate in RATES]
    best = max(each.goodput for each in rounds)
    rounds.append(await measure(api, key, 5 * best))
    print(markdown_table(COLUMNS, [each.cells(best) for each in rounds], text=0))


def main() -> None:
    limits = {"CALLGATE_MAX_IN_FLIGHT": str(MAX_IN_FLIGHT), "CALLGATE_MAX_IN_FLIGHT_PER_TENANT": str(MAX_IN_FLIGHT)}
    run_with_api("overload", run, upstream_s=UPSTREAM_S, settings=limits)


if __name__ == "__main__":
    main()
