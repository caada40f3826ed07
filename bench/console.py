"""Measures how much open pages of the console delay creations of calls, and how fast pages appear: `python -m bench.console`.

One API process runs. Simulated operators reload the page *Now*, the figures of its plots, and the page *Calls* each second.
Meanwhile a tenant creates calls one after the other, and each creation is timed. Rounds with the operators and rounds without
them alternate. Read the ratios within one run: the machine's own speed does not matter. At the end, bench.console_paint opens
pages in Chromium, if it is installed.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench import console_paint
from bench.connections import Connection, raw_creation_request, raw_request
from bench.neighbours import LISTED_CALLS, UPSTREAM_S, Service, compare, copy_only_call, running_tasks, time_creations
from bench.one_api import Api, run_with_api
from tests.proofs.fleet import command
from tests.support.clients import http_client

OPERATORS = 8
RELOAD_EVERY_S = 1.0
RELOADED_PATHS = ("/console/now", "/console/now/figures", "/console/calls")


@dataclass
class PageCounts:
    pages: int = 0
    refused: int = 0
    slowest_s: float = 0


async def log_in(api: Api) -> str:
    """Logs in to the console as an operator with read access. Returns the session cookie, as the value of a Cookie header."""
    shown = await command(api.environment, "keys", "create", "--operator", "--name", "Kate", "--scope", "read", "--json")
    origin = f"http://127.0.0.1:{api.port}"
    async with http_client(base_url=origin, headers={"Origin": origin}) as http:
        answer = await http.post("/console/login", data={"key": json.loads(shown)["key"]})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["Set-Cookie"]).partition(";")[0]


@asynccontextmanager
async def reloading_operators(api: Api, cookie: str, seen: PageCounts) -> AsyncIterator[None]:
    """Simulates OPERATORS operators of the console until the `async with` block ends.

    Each operator reloads all RELOADED_PATHS every RELOAD_EVERY_S seconds. The operators begin at different times, which are
    spread evenly over RELOAD_EVERY_S. `seen` counts the answers.
    """
    requests = [raw_request(path, {"Cookie": cookie}, method="GET") for path in RELOADED_PATHS]

    async def reload_on(number: int) -> None:
        connection = Connection(api.port)
        due = time.perf_counter() + RELOAD_EVERY_S * number / OPERATORS
        try:
            while True:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += RELOAD_EVERY_S
                for request in requests:
                    began = time.perf_counter()
                    status, _ = await connection.ask(request)
                    seen.slowest_s = max(seen.slowest_s, time.perf_counter() - began)
                    seen.pages += status == 200
                    seen.refused += status != 200
        finally:
            connection.close()

    async with running_tasks(*(reload_on(number) for number in range(OPERATORS))):
        yield


async def run(api: Api, seconds: float) -> None:
    keys = {name: await api.make_tenant(name) for name in ("looks", "well")}
    for key in keys.values():
        status, body = await Connection(api.port).ask(raw_creation_request(key))
        assert status == 201, body
    copy_only_call(api.database, "looks", LISTED_CALLS)
    service, cookie, seen = Service(api, keys, copy_only_call(api.database, "well", 50_000)), await log_in(api), PageCounts()
    await time_creations(service, 1)
    found = await compare(
        f"beside {OPERATORS} people in the console",
        lambda duration: time_creations(service, duration),
        lambda: reloading_operators(api, cookie, seen),
        seconds,
    )
    print(f"  {'creation, milliseconds':<48} {'n':>5} {'p50':>8} {'p99':>8} {'×':>6}")
    found.show(f"{seen.pages} pages, {seen.refused} refused, the slowest {seen.slowest_s * 1000:.0f} ms")
    if seen.refused or not seen.pages:
        raise SystemExit("a page was refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40, help="of creations, each way")
    arguments = parser.parse_args()
    run_with_api("console", lambda api: run(api, arguments.seconds), upstream_s=UPSTREAM_S)
    console_paint.main()


if __name__ == "__main__":
    main()
