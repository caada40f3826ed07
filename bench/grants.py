"""Measures how fast a worker grants scheduled calls, that is, allows them to be dialled: `python -m bench.grants`.

There are two goals: one worker grants 200 calls a second, and a grant costs the same whether few or many calls wait. Two
accounts have 100 callers each. Few calls wait in one account, and many in the other. This process times grants for both
accounts in turn. Then one worker grants and dials the calls that are left, and the server in place of Twilio answers at once.
"""

import argparse
import asyncio
import base64
import json
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from uuid import UUID

import psycopg

from app.audit.events import command_actor
from app.calls.creation.grants.service import MAX_GRANTS_PER_TRANSACTION, grant_calls
from app.database.engine import Database
from app.security.keyring import Keyring
from app.tenants.administration import TenantAdministration
from app.tenants.caller import COMMAND_LINE_CALLER
from bench import processes
from bench.connections import Connection, raw_request
from bench.one_api import Api, run_with_api
from tests.proofs.fleet import Process

CALLERS = 100
ROUNDS = 12
DIAL_S = 10.0
_LINES = 500


async def schedule_calls(api: Api, tenants: TenantAdministration, tenant_id: str, calls: int) -> UUID:
    """Creates a tenant with CALLERS API keys, and schedules `calls` calls, the same number with each key.

    Returns the id of the tenant's account.
    """
    await api.make_tenant(tenant_id)
    keys = [(await tenants.create_key(tenant_id, name=None, creator=COMMAND_LINE_CALLER))[1] for _ in range(CALLERS)]
    connection = Connection(api.port)
    await connection.ask(_request(keys[0], "/v1/queues/q", b"{}", "application/json", method="PUT"))
    for key in keys:
        for start in range(0, calls // CALLERS, _LINES):
            numbers = range(start, min(start + _LINES, calls // CALLERS))
            status, answer = await connection.ask(
                _request(key, "/v1/queues/q/calls", _lines(key, numbers), "application/x-ndjson")
            )
            if status != 200 or b'"problem"' in answer:
                raise SystemExit(f"{status}: {answer.decode()[:500]}")
    connection.close()
    with psycopg.connect(api.database, autocommit=True) as postgres:
        postgres.execute("ANALYZE")
        (account_id,) = postgres.execute("SELECT id FROM twilio_account WHERE tenant_id = %s", [tenant_id]).fetchone() or ()
    return UUID(str(account_id))


def _lines(key: str, numbers: Sequence[int]) -> bytes:
    call = {"from": "Jack", "url": "http://www.example.com/sipdial.xml", "priority": "bulk"}
    return "\n".join(
        json.dumps(call | {"key": f"{key[:20]}-{number}", "to": f"sip:kate{number}@example.com"}) for number in numbers
    ).encode()


def _request(key: str, path: str, body: bytes, media_type: str, *, method: str = "POST") -> bytes:
    return raw_request(path, {"Authorization": f"Bearer {key}", "Content-Type": media_type}, body, method=method)


async def measure(api: Api, few: int, many: int) -> None:
    database = Database(api.environment["CALLGATE_DATABASE_URL"], pool_size=2)
    keyring = Keyring([base64.b64decode(api.environment["CALLGATE_SECRET_KEYS"])])
    tenants = TenantAdministration(database, keyring, command_actor())
    accounts = {calls: await schedule_calls(api, tenants, f"calls-{calls}", calls) for calls in (few, many)}
    times: dict[int, list[float]] = {calls: [] for calls in accounts}
    for _ in range(ROUNDS):
        for calls, account_id in accounts.items():
            began = time.perf_counter()
            granted = await grant_calls(database, account_id, limit=MAX_GRANTS_PER_TRANSACTION)
            if len(granted.grants) == MAX_GRANTS_PER_TRANSACTION:
                times[calls].append((time.perf_counter() - began) / MAX_GRANTS_PER_TRANSACTION)
    await database.close()
    medians = {calls: statistics.median(each) * 1000 for calls, each in times.items()}
    for calls, median in medians.items():
        print(f"{calls:,} calls of {CALLERS} callers: {median:.2f} ms a grant, {median / medians[few]:.2f}×")
    await measure_dialling(api, f"calls-{many}")


async def measure_dialling(api: Api, tenant_id: str) -> None:
    """Runs one worker that dials for DIAL_S seconds, and prints its calls per second and its processor time per call."""
    with tempfile.TemporaryFile() as log:
        worker = Process(["worker"], api.environment, log)
        await worker.start()
    assert worker.running
    started = "SELECT count(*) FROM call WHERE tenant_id = %s AND execution = 'started'"
    with psycopg.connect(api.database, autocommit=True) as postgres:

        def count() -> int:
            return int((postgres.execute(started, [tenant_id]).fetchone() or (0,))[0])

        while not count():
            await asyncio.sleep(0.1)
        before, cpu_s, began = count(), processes.cpu_seconds(worker.running.pid), time.perf_counter()
        await asyncio.sleep(DIAL_S)
        dialled, seconds = count() - before, time.perf_counter() - began
        cpu_s = processes.cpu_seconds(worker.running.pid) - cpu_s
    await worker.end(signal.SIGKILL)
    print(
        f"one worker: {dialled / seconds:.0f} calls/s granted and dialled, {cpu_s / max(dialled, 1) * 1000:.2f} ms of it a call"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=300, help="calls that wait in the small case, at least 200")
    parser.add_argument("--many", type=int, default=100_000)
    options = parser.parse_args()
    run_with_api("grants", lambda api: measure(api, options.few, options.many), upstream_s=0.0)


if __name__ == "__main__":
    main()
