"""Measures what clients without an API key cost the service: `python -m bench.strangers`.

The bench takes half a minute and uses loopback only. It runs one API process and a stand-in for Twilio that takes 100 ms for an
answer. To compare two versions of Callgate, run the bench for both on one machine.
"""

import asyncio
import statistics
import time
from contextlib import AsyncExitStack, suppress

from bench.connections import Connection, raw_creation_request, raw_request
from bench.one_api import Api, run_with_api

UPSTREAM_S = 0.1
REQUESTS = 200
SLOW_CONNECTIONS = 200
SILENT_CONNECTIONS = 300
SILENCE_S = 12.0
HEADER_LINES = 1_400_000  # 8 MB


async def connect(api: Api, stack: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    stack.callback(writer.close)
    return reader, writer


async def cpu_ms_per_request(api: Api, path: str) -> float:
    """Returns how many milliseconds of processor time the API uses for one GET of `path`.

    This is the mean over REQUESTS requests on one connection.
    """
    connection, request = Connection(api.port), raw_request(path, {}, method="GET")
    await connection.ask(request)  # the first may have something to prepare
    before = api.cpu_s()
    for _ in range(REQUESTS):
        await connection.ask(request)
    connection.close()
    return (api.cpu_s() - before) / REQUESTS * 1000


async def time_creations(api: Api, key: str, count: int = 20) -> str:
    connection, request = Connection(api.port), raw_creation_request(key)
    placed, times = 0, []
    for _ in range(count):
        began = time.perf_counter()
        status, _ = await connection.ask(request)
        placed += status == 201
        times.append((time.perf_counter() - began) * 1000)
    connection.close()
    return f"{placed} of {count} creations placed, median {statistics.median(times):.0f} ms"


async def time_creations_beside_slow_bodies(api: Api, key: str) -> str:
    async with AsyncExitStack() as stack:
        for _ in range(SLOW_CONNECTIONS):
            _, writer = await connect(api, stack)
            lines = ["POST /v1/calls HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 99"]
            writer.write("\r\n".join([*lines, f"Authorization: Bearer {key}", "", "{"]).encode())
        await asyncio.sleep(0.5)
        return await time_creations(api, key)


async def count_open_silent_connections(api: Api) -> int:
    """Opens SILENT_CONNECTIONS connections that send nothing. Returns how many are still open after SILENCE_S seconds."""
    async with AsyncExitStack() as stack:
        readers = [(await connect(api, stack))[0] for _ in range(SILENT_CONNECTIONS)]
        await asyncio.sleep(SILENCE_S)
        return sum(not reader.at_eof() for reader in readers)


async def memory_raised_by_long_head(api: Api) -> float:
    """Sends the head of a request with 8 MB of header lines. Returns by how many MiB this raises the API's memory."""
    before = api.resident_mib()
    async with AsyncExitStack() as stack:
        _, writer = await connect(api, stack)
        writer.write(b"GET /livez HTTP/1.1\r\n")
        with suppress(ConnectionError):  # it was refused
            for _ in range(HEADER_LINES // 1000):
                writer.write(b"A: b\r\n" * 1000)
                await writer.drain()
        await asyncio.sleep(0.5)
        return api.resident_mib() - before


async def run(api: Api) -> None:
    key = await api.make_tenant("strangers")
    for path in ("/livez", "/openapi.json", "/metrics", "/docs/operations"):
        print(f"GET {path}: {await cpu_ms_per_request(api, path):.2f} ms of CPU")
    print(f"Alone: {await time_creations(api, key)}")
    print(f"Beside {SLOW_CONNECTIONS} slow bodies: {await time_creations_beside_slow_bodies(api, key)}")
    print(f"{SILENT_CONNECTIONS} silent connections: {await count_open_silent_connections(api)} open after {SILENCE_S:.0f} s")
    print(f"8 MB of header lines: {await memory_raised_by_long_head(api):+.0f} MiB")


if __name__ == "__main__":
    run_with_api("strangers", run, upstream_s=UPSTREAM_S)
