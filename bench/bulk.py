"""Measures how fast calls are added to a queue: `python -m bench.bulk`. The goal: 100,000 calls in less than 60 s on two cores.

One API process and one Postgres with fsync run. The client sends bodies of 1,000 lines, one call on each line. It then sends
the same bodies again, as a client does after a failure, and cancels the queue. On a machine that does other work as well,
compare the processor time.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence

import psycopg

from bench import processes
from bench.connections import Connection, raw_request
from bench.one_api import Api, run_with_api

LINES_PER_BODY = 1_000
_GOAL_S = 60.0


def ndjson_bodies(lines: int) -> list[bytes]:
    call = {"from": "Jack", "url": "http://www.example.com/sipdial.xml"}
    made = (json.dumps(call | {"key": f"order-{n}", "to": f"sip:kate{n}@example.com"}) for n in range(lines))
    return ["\n".join(part).encode() for part in zip(*[made] * LINES_PER_BODY, strict=True)]


async def send_all(api: Api, requests: Sequence[bytes], connections: int) -> Counter[int]:
    """Sends the requests, and returns how many of their lines were answered with each status.

    Status 0 counts the lines that were answered with a problem (RFC 9457).
    """
    waiting, statuses = iter(requests), Counter[int]()

    async def send() -> None:
        connection = Connection(api.port)
        for request in waiting:
            status, answer = await connection.ask(request)
            if status != 200:
                raise SystemExit(f"{status}: {answer.decode()[:500]}")
            statuses.update(json.loads(line).get("status", 0) for line in answer.splitlines())
        connection.close()

    await asyncio.gather(*(send() for _ in range(connections)))
    return statuses


async def measure(api: Api, lines: int, connections: int) -> None:
    key = await api.make_tenant("bulk")
    headers = {"Authorization": f"Bearer {key}"}
    with psycopg.connect(api.database) as connection:
        postgres = processes.parent_of(connection.info.backend_pid)
    asking = Connection(api.port)
    await asking.ask(raw_request("/v1/queues/q", headers | {"Content-Type": "application/json"}, b"{}", method="PUT"))
    asking.close()
    ndjson = headers | {"Content-Type": "application/x-ndjson"}
    requests = [raw_request("/v1/queues/q/calls", ndjson, body) for body in ndjson_bodies(lines)]
    for name, expected in (("added", 202), ("sent again", 200)):
        began, api_s, postgres_s = time.perf_counter(), api.cpu_s(), processes.cpu_seconds(postgres)
        statuses = await send_all(api, requests, connections)
        seconds, api_s = time.perf_counter() - began, api.cpu_s() - api_s
        cpu = f"processor time: API {api_s:.1f} s, Postgres {processes.cpu_seconds(postgres) - postgres_s:.1f} s"
        goal = f", the goal is {_GOAL_S * lines / 100_000:.0f} s" if expected == 202 else ""
        print(f"{name:<11}{lines:>8} lines in {seconds:6.1f} s{goal}; {cpu}; {dict(statuses)}")
    for method, path, name in (("GET", "/v1/queues/q", "shown"), ("POST", "/v1/queues/q/cancel", "cancelled")):
        asking, began = Connection(api.port), time.perf_counter()
        status, answer = await asking.ask(raw_request(path, headers, method=method))
        print(f"{name:<11}{time.perf_counter() - began:>24.2f} s, {status}: {answer.decode()[-300:]}")
        asking.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=1)
    given = parser.parse_args()

    async def work(api: Api) -> None:
        await measure(api, given.lines, given.connections)

    run_with_api("bulk", work, upstream_s=0.0)


if __name__ == "__main__":
    main()
