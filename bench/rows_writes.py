"""Measures the cost of writes: of each index of the table `call`, and of creating calls while expired calls are deleted."""

import asyncio
import random
import time
from datetime import timedelta
from statistics import median, quantiles

from app.jobs.retain import RetentionEnforcer
from app.observability import Metrics
from bench.report import markdown_table
from bench.rows_data import CALL_EVERY_MS
from bench.rows_measure import MeasuredDatabase
from bench.rows_questions import QUESTIONS, create_calls

_ROUNDS = 5
# The unique indexes are left out, because the service cannot do without them.
_INDEXES_SQL = """
    SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) / 1048576.0 AS mib FROM pg_index
    WHERE indrelid = 'call'::regclass AND NOT indisunique ORDER BY mib DESC
"""


async def measure_index_costs(subject: MeasuredDatabase, *, rounds: int) -> list[str]:
    """Measures for each index that is not unique how much faster calls are created without it.

    Returns a report in Markdown, with a table.
    """
    question, table = QUESTIONS["create 32 together"], []
    for index, mib in await subject.database.fetch(_INDEXES_SQL):
        whole, saved = [], []
        for number in range(rounds):
            whole.append((await subject.measure_cost(question, number)).ms)
            saved.append(whole[-1] - (await subject.measure_cost(question, number, without_index=index)).ms)
        share = median(saved) / median(whole)
        table.append([f"`{index}`", f"{mib:,.0f}", f"{median(saved) / 32 * 1000:.1f}", f"{share:.0%}"])
    return [
        f"### What each index costs, at {subject.rows:,} calls",
        "One of 32 creations together, intent and outcome. The share is of the time with all indexes.",
        markdown_table(("index", "MiB", "µs a creation", "share"), table),
    ]


async def measure_creations_while_expiring(subject: MeasuredDatabase, *, seconds: float) -> list[str]:
    """Measures how long the creation of a call takes, with and without the job that deletes expired calls.

    The job deletes the older half of the calls, and runs in every second round. Returns a report in Markdown, with a table.
    """
    metrics = Metrics()
    retention = RetentionEnforcer(
        subject.database, metrics, retention_period=timedelta(milliseconds=CALL_EVERY_MS * subject.rows / 2)
    )
    taken: dict[str, list[float]] = {"at rest": [], "at work": []}
    await _time_creations(subject, seconds)  # what is touched first is slow
    for _ in range(_ROUNDS):
        taken["at rest"] += await _time_creations(subject, seconds)
        job = asyncio.create_task(_expire(retention))
        taken["at work"] += await _time_creations(subject, seconds)
        job.cancel()
        await asyncio.wait([job])
    deleted = metrics.registry.get_sample_value("callgate_expired_total", {"what": "call"}) or 0
    table = [[name, f"{len(ms):,}", f"{median(ms):.2f}", f"{quantiles(ms, n=100)[98]:.2f}"] for name, ms in taken.items()]
    return [
        "### Creation while expired calls are deleted",
        markdown_table(("retention", "creations", "p50 ms", "p99 ms"), table),
        f"At work it deleted {deleted:,.0f} calls in {_ROUNDS * seconds:.0f} s.",
    ]


async def _time_creations(subject: MeasuredDatabase, seconds: float) -> list[float]:
    """Creates calls one after the other for `seconds` seconds. Returns the milliseconds that each creation took.

    A creation has two commits: of the intent (the record before the request to Twilio), and of the outcome.
    """
    taken = []
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        await create_calls(subject.database, random.choice(subject.drawn), together=1)
        taken.append((time.monotonic() - began) * 1000)
    return taken


async def _expire(retention: RetentionEnforcer) -> None:
    await retention.drop_partitions()
    while True:
        await retention.expire_calls()
