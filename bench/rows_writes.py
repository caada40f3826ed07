"""Measures the cost of writing: each index of `call`, and creation while expired calls are deleted."""

import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.synchronize import Event

from app.calls.creation.store import insert_intents, write_outcomes
from app.database.engine import Database
from app.jobs.retain import Retainer
from app.observability import Metrics
from bench.rows_measure import Subject
from bench.rows_questions import Drawn, creations, intent, started

TOGETHER = 32
# The unique indexes are left out, because the service cannot do without them.
_INDEXES = """
    SELECT indexrelid::regclass::text AS name, pg_relation_size(indexrelid) AS bytes FROM pg_index
    WHERE indrelid = 'call'::regclass AND NOT indisunique ORDER BY bytes DESC
"""
_DELETED = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'call'"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one creation (intent and outcome) among many: microseconds and WAL bytes."""

    us: float
    wal_bytes: float


@dataclass(frozen=True, slots=True)
class IndexCosts:
    whole: Cost
    without: dict[str, tuple[float, Cost]]
    """For each index: its MiB, and what a creation costs less without it."""


async def index_costs(subject: Subject, *, rounds: int) -> IndexCosts:
    """Measures creations with all indexes and without each of them in turn, in transactions that are rolled back."""
    sizes = {row["name"]: row["bytes"] / 2**20 for row in await subject.connection.fetch(_INDEXES)}
    seen: dict[str, list[Cost]] = {name: [] for name in ("", *sizes)}
    await _set_full_page_writes(subject, "off")  # images of whole pages depend on the time since the checkpoint
    for _ in range(rounds):
        for name in random.sample(list(seen), len(seen)):
            transaction = subject.connection.transaction()
            await transaction.start()
            if name:
                await subject.connection.execute(f"DROP INDEX {name}")
            await _create(subject)  # plans anew, without the index
            seen[name].append(await _create(subject))
            await transaction.rollback()
    await _set_full_page_writes(subject, "on")
    whole = seen.pop("")
    saved = {
        name: [Cost(a.us - b.us, a.wal_bytes - b.wal_bytes) for a, b in zip(whole, costs, strict=True)]
        for name, costs in seen.items()
    }
    return IndexCosts(_median(whole), {name: (sizes[name], _median(costs)) for name, costs in saved.items()})


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(statistics.median(one.us for one in costs), statistics.median(one.wal_bytes for one in costs))


async def _set_full_page_writes(subject: Subject, value: str) -> None:
    await subject.connection.execute(f"ALTER SYSTEM SET full_page_writes = {value}")
    await subject.connection.execute("SELECT pg_reload_conf()")


async def _create(subject: Subject) -> Cost:
    like = random.choice(subject.drawn)
    both = [await subject.ask(question, like) for question in creations(TOGETHER)]
    return Cost(sum(one.ms for one in both) * 1000 / TOGETHER, sum(one.wal_bytes for one in both) / TOGETHER)


@dataclass
class Latencies:
    """Milliseconds of each creation."""

    quiet: list[float] = field(default_factory=list)
    expiring: list[float] = field(default_factory=list)
    expired: int = 0
    expiring_s: float = 0.0


async def creation_while_expiring(subject: Subject, url: str, *, keep: timedelta, rounds: int, seconds: float) -> Latencies:
    """Measures creations one after the other, with and without the retention job at work in turns.

    Intent and outcome of each are committed.
    """
    spawn, database, seen = multiprocessing.get_context("spawn"), Database(url, pool_size=2), Latencies()
    try:
        await _creations(database, subject.drawn, seconds)  # what is touched first is slow
        before = await subject.connection.fetchval(_DELETED)
        for _ in range(rounds):
            seen.quiet += await _creations(database, subject.drawn, seconds)
            ready = spawn.Event()
            worker = spawn.Process(target=_expire, args=(url, keep, ready), daemon=True)
            worker.start()
            await asyncio.to_thread(ready.wait)
            began = time.monotonic()
            seen.expiring += await _creations(database, subject.drawn, seconds)
            worker.terminate()
            await asyncio.to_thread(worker.join)
            seen.expiring_s += time.monotonic() - began
        seen.expired = await subject.connection.fetchval(_DELETED) - before
    finally:
        await database.close()
    return seen


async def _creations(database: Database, drawn: Sequence[Drawn], seconds: float) -> list[float]:
    taken = []
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        call = intent(random.choice(drawn))
        await insert_intents(database, [call])
        await write_outcomes(database, [started(call)])
        taken.append((time.monotonic() - began) * 1000)
    return taken


def _expire(url: str, keep: timedelta, ready: Event) -> None:
    """Runs a worker that does nothing but retention, until it is terminated."""

    async def run() -> None:
        retainer = Retainer(Database(url, pool_size=2), Metrics(), keep)
        while True:
            await retainer.drop_partitions()
            await retainer.expire_calls()
            ready.set()

    asyncio.run(run())
