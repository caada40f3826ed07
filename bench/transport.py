"""Measures the microseconds of CPU that one POST to Twilio costs this process: `python -m bench.transport`.

The measured HTTP transports take turns for several rounds. A separate process answers in place of Twilio. Compare the ratios
within one run, not the absolute numbers.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlencode

import httpx
import uvloop

from app.twilio.client import HttpClient
from app.twilio.direct_transport import DirectTransport
from app.twilio.transport import AiohttpTransport
from tests.proofs.balancer import free_port

OURS = "prepared request, DirectTransport (ours)"
IN_FLIGHT, REQUESTS, ROUNDS = 32, 1600, 5
PATH = f"/2010-04-01/Accounts/AC{'0' * 32}/Calls.json"
FORM = urlencode({"To": "sip:kate@example.com", "From": "Jack", "Url": "http://www.example.com/sipdial.xml"}).encode()
HEADERS = {"Authorization": "Basic eDp5", "Content-Type": "application/x-www-form-urlencoded"}
TIMEOUT = httpx.Timeout(5)
LIMITS = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)

Post = Callable[[], Awaitable[httpx.Response]]


async def measure(post: Post) -> float:
    """Returns how many microseconds of CPU one call of `post` costs this process, with IN_FLIGHT concurrent requests."""

    async def client(count: int) -> None:
        for _ in range(count):
            response = await post()
            assert b"sid" in await response.aread()
            await response.aclose()

    before = time.process_time()
    await asyncio.gather(*(client(REQUESTS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
    return (time.process_time() - before) / (REQUESTS // IN_FLIGHT * IN_FLIGHT) * 1e6


async def main() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}{PATH}"
    upstream = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.upstream", str(port), "0")
    async with AsyncExitStack() as stack:
        stack.callback(upstream.kill)
        own = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT, limits=LIMITS))
        ours = AiohttpTransport(max_connections=IN_FLIGHT, keepalive_s=2)
        over = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT, transport=ours))
        prepared, direct = (
            HttpClient(kind(max_connections=IN_FLIGHT, keepalive_s=2), timeout=TIMEOUT, user_agent="bench")
            for kind in (AiohttpTransport, DirectTransport)
        )
        stack.push_async_callback(prepared.aclose)
        stack.push_async_callback(direct.aclose)

        def by_client(http: httpx.AsyncClient) -> Post:
            return lambda: http.send(http.build_request("POST", url, content=FORM, headers=HEADERS), stream=True)

        ways: dict[str, Post] = {
            "httpx client, its own pool": by_client(own),
            "httpx client over aiohttp": by_client(over),
            "prepared request, aiohttp": lambda: prepared.send("POST", url, headers=HEADERS, content=FORM),
            OURS: lambda: direct.send("POST", url, headers=HEADERS, content=FORM),
        }
        async with asyncio.timeout(10):
            while True:
                with suppress(httpx.ConnectError):
                    await over.post(url, content=FORM)
                    break
                await asyncio.sleep(0.05)
        rounds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(ROUNDS + 1):
            for way, post in ways.items():
                spent = await measure(post)
                if number:  # the first one makes the connections
                    rounds[way].append(spent)
        least = statistics.median(rounds[OURS])
        print(f"CPU per POST with {IN_FLIGHT} in flight, under uvloop; {REQUESTS} requests, median of {ROUNDS} rounds")
        for way, spent_in in rounds.items():
            median = statistics.median(spent_in)
            print(f"{way:40} {median:7.0f} µs  {median / least:5.1f}x")
    await upstream.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
