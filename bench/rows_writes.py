"""Measures the cost of writing: each index of `call`, and creation while expired calls are deleted."""

import asyncio
import multiprocessing
import operator
import random
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.synchronize import Event
from statistics import median, quantiles

from app.calls.creation.store import insert_intents, write_outcomes
from app.calls.models import Call
from app.database.connection import Connection
from app.database.engine import Database
from app.jobs.retain import Retainer
from app.observability import Metrics
from bench.report import markdown_table
from bench.rows_data import EVERY_MS
from bench.rows_measure import Cost, Subject
from bench.rows_questions import creations, intent, started

_TOGETHER = 32
_ROUNDS = 5
# The unique indexes are left out, because the service cannot do without them.
_INDEXES = """
    SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) / 1048576.0 AS mib FROM pg_index
    WHERE indrelid = 'call'::regclass AND NOT indisunique ORDER BY mib DESC
"""
_DELETED = "SELECT n_tup_del FROM pg_stat_user_tables WHERE relname = 'call'"


async def compare_indexes(subject: Subject, *, rounds: int) -> list[str]:
    """Measures creations with all indexes and without each of them in turn, in transactions that are rolled back."""
    connection = subject.hot_connection
    sizes = dict(await connection.fetch(_INDEXES))
    costs: dict[str, list[Cost]] = {name: [] for name in ("", *sizes)}
    await _set_full_page_writes(connection, "off")  # images of whole pages depend on the time since the checkpoint
    for _ in range(rounds):
        for name in random.sample(list(costs), len(costs)):
            transaction = connection.transaction()
            await transaction.start()
            if name:
                await connection.execute(f"DROP INDEX {name}")
            await _create(subject)  # plans anew, without the index
            costs[name].append(await _create(subject))
            await transaction.rollback()
    await _set_full_page_writes(connection, "on")
    with_all = costs.pop("")
    whole, rows = Cost.median(with_all), []
    for name, without in costs.items():
        saved = Cost.median(Cost(*map(operator.sub, *pair)) for pair in zip(with_all, without, strict=True))
        time_cells = f"{saved.ms * 1000:.1f}", f"{saved.ms / whole.ms:.0%}"
        log_cells = f"{saved.wal_bytes:,.0f}", f"{saved.wal_bytes / whole.wal_bytes:.0%}"
        rows.append([f"`{name}`", f"{sizes[name]:,.0f}", *time_cells, *log_cells])
    return [
        f"### What each index costs, at {subject.rows:,} calls",
        f"One creation among {_TOGETHER} together, intent and outcome: {whole.ms * 1000:.0f} µs of Postgres's time and "
        f"{whole.wal_bytes:,.0f} bytes of write-ahead log with all of them.",
        markdown_table(("index", "MiB", "µs a creation", "share", "WAL bytes a creation", "share"), rows),
    ]


async def _set_full_page_writes(connection: Connection, value: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET full_page_writes = {value}")
    await connection.execute("SELECT pg_reload_conf()")


async def _create(subject: Subject) -> Cost:
    """Returns the cost of one creation, intent and outcome, among many."""
    like = random.choice(subject.drawn)
    both = [(await subject.ask(question, like))[0] for question in creations(_TOGETHER).values()]
    return Cost(*(sum(values) / _TOGETHER for values in zip(*both, strict=True)))


async def create_while_expiring(subject: Subject, *, seconds: float) -> list[str]:
    """Measures creations one after the other, with and without the retention job at work in turns.

    Intent and outcome of each are committed.
    """
    spawn, database = multiprocessing.get_context("spawn"), Database(subject.url, pool_size=2)
    keep = timedelta(milliseconds=EVERY_MS * subject.rows / 2)
    at_rest: list[float] = []
    at_work: list[float] = []
    await _creations(database, subject.drawn, seconds)  # what is touched first is slow
    before = await subject.connection.fetchval(_DELETED)
    for _ in range(_ROUNDS):
        at_rest += await _creations(database, subject.drawn, seconds)
        ready = spawn.Event()
        worker = spawn.Process(target=_expire, args=(subject.url, keep, ready), daemon=True)
        worker.start()
        await asyncio.to_thread(ready.wait)
        at_work += await _creations(database, subject.drawn, seconds)
        worker.terminate()
        await asyncio.to_thread(worker.join)
    deleted = await subject.connection.fetchval(_DELETED) - before
    await database.close()
    rows = [
        [name, f"{len(ms):,}", f"{median(ms):.2f}", f"{quantiles(ms, n=100)[98]:.2f}"]
        for name, ms in (("at rest", at_rest), ("at work", at_work))
    ]
    return [
        "### Creation while expired calls are deleted",
        markdown_table(("retention", "creations", "p50 ms", "p99 ms"), rows),
        f"At work it deleted {deleted:,} calls in {_ROUNDS * seconds:.0f} s.",
    ]


async def _creations(database: Database, drawn: Sequence[Call], seconds: float) -> list[float]:
    """Returns the milliseconds of each creation."""
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
