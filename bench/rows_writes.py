"""What writing costs: each index of `call`, and creation while expired calls are deleted."""

import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from app.calls.creation.store import insert_intents, write_outcomes
from app.database.engine import Database
from app.jobs.retain import Retainer
from app.observability import Metrics
from bench.rows_measure import Subject
from bench.rows_questions import Drawn, intent, started

TOGETHER = 32
# Without the unique ones there are no promises, so they are not on trial.
_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_relation_size(indexrelid) AS bytes FROM pg_index
    WHERE indrelid = 'call'::regclass AND NOT indisunique ORDER BY bytes DESC
"""


@dataclass(frozen=True, slots=True)
class IndexCost:
    name: str
    mib: float
    # Of one creation, intent and outcome: what it costs less without this index.
    us: float
    wal_bytes: float


@dataclass(frozen=True, slots=True)
class IndexCosts:
    us: float
    wal_bytes: float
    indexes: list[IndexCost]


async def index_costs(subject: Subject, *, rounds: int) -> IndexCosts:
    """Creations with all indexes and without each of them in turn, in transactions that are rolled back."""
    sizes = {row["name"]: row["bytes"] for row in await subject.connection.fetch(_INDEXES)}
    seen: dict[str | None, list[tuple[float, float]]] = {name: [] for name in (None, *sizes)}
    await _set_full_page_writes(subject, "off")  # images of whole pages are a matter of how long ago the checkpoint was
    for _ in range(rounds):
        for name in random.sample(list(seen), len(seen)):
            begun = subject.connection.transaction()
            await begun.start()
            if name:
                await subject.connection.execute(f"DROP INDEX {name}")
            await _create(subject)  # plans anew, without the index
            seen[name].append(await _create(subject))
            await begun.rollback()
    await _set_full_page_writes(subject, "on")
    whole = seen.pop(None)
    costs = []
    for name, without in seen.items():
        us, wal = (statistics.median(a[part] - b[part] for a, b in zip(whole, without, strict=True)) for part in (0, 1))
        costs.append(IndexCost(name or "", sizes[name or ""] / 2**20, us, wal))
    us, wal = (statistics.median(one[part] for one in whole) for part in (0, 1))
    return IndexCosts(us, wal, costs)


async def _set_full_page_writes(subject: Subject, value: str) -> None:
    await subject.connection.execute(f"ALTER SYSTEM SET full_page_writes = {value}")
    await subject.connection.execute("SELECT pg_reload_conf()")


async def _create(subject: Subject) -> tuple[float, float]:
    """Microseconds and bytes of write-ahead log of one creation, when many go together."""
    both = await subject.create(TOGETHER)
    return sum(one.ms for one in both) * 1000 / TOGETHER, sum(one.wal_bytes for one in both) / TOGETHER


@dataclass
class Latencies:
    quiet: list[float] = field(default_factory=list)
    expiring: list[float] = field(default_factory=list)
    expired: int = 0
    expiring_s: float = 0.0


async def creation_while_expiring(
    url: str, drawn: Sequence[Drawn], *, keep: timedelta, rounds: int, seconds: float
) -> Latencies:
    """One creation after the other, intent and outcome each committed, by turns with the retention job at work and without."""
    spawn = multiprocessing.get_context("spawn")
    at_work, over, expired = spawn.Event(), spawn.Event(), spawn.Value("q", 0)
    worker = spawn.Process(target=_expire, args=(url, keep, at_work, over, expired), daemon=True)
    worker.start()
    database, seen = Database(url, pool_size=2), Latencies()
    try:
        await _creations(database, drawn, seconds)  # what is touched first is slow
        for _ in range(rounds):
            seen.quiet += await _creations(database, drawn, seconds)
            at_work.set()
            began = time.monotonic()
            seen.expiring += await _creations(database, drawn, seconds)
            at_work.clear()
            seen.expiring_s += time.monotonic() - began
    finally:
        over.set()
        await asyncio.to_thread(worker.join)
        await database.close()
    seen.expired = expired.value
    return seen


async def _creations(database: Database, drawn: Sequence[Drawn], seconds: float) -> list[float]:
    """Milliseconds of each."""
    taken = []
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        call = intent(random.choice(drawn))
        await insert_intents(database, [call])
        await write_outcomes(database, [started(call)])
        taken.append((time.monotonic() - began) * 1000)
    return taken


def _expire(url: str, keep: timedelta, at_work: Event, over: Event, expired: "Synchronized[int]") -> None:
    """A worker with nothing but retention to do."""

    async def run() -> None:
        database, metrics = Database(url, pool_size=2), Metrics()
        retainer = Retainer(database, metrics, keep)
        while not over.is_set():
            if at_work.is_set():
                await retainer.drop_partitions()
                await retainer.expire_calls()
                expired.value = int(metrics.registry.get_sample_value("callgate_expired_total", {"what": "call"}) or 0)
            else:
                await asyncio.sleep(0.05)
        await database.close()

    asyncio.run(run())
