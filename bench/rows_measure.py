"""Ask the same of two databases in turn, and see what Postgres says that it cost.

A statement is taken as it leaves the application for the driver, prepared as the driver prepares it, and run by EXPLAIN: so
the plan is the one that the application gets, after some repetitions also a generic one. The time is Postgres's own. Buffers
are pages of 8 KiB that were looked at, and no neighbour on the machine can disturb them.
"""

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from app.database.connection import MIGRATION_SESSION
from app.database.engine import make_engine
from bench.rows_questions import Drawn, Question, Taken, intent, intents, outcomes

_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, WAL, TIMING OFF, FORMAT JSON) EXECUTE"
# Of the ten largest tenants, whose pages are full at any size, in turn, so that any two databases are asked for the same ones.
# Not from the first and the last day, so that the days around are whole.
_DRAW = text("""
    SELECT id, sid, tenant_id, account_id, account_sid, "to", "from", status, created_at, idempotency_key,
        coalesce((SELECT parent_call_sid FROM call child
                  WHERE parent_call_sid IS NOT NULL AND tenant_id = drawn.tenant_id LIMIT 1), 'CA0') AS a_parent,
        (SELECT "to" FROM call other
         WHERE tenant_id = drawn.tenant_id AND "to" LIKE 'sip:user-%' AND id > drawn.id ORDER BY id LIMIT 1) AS a_rare_to
    FROM (
        SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY random()) AS turn FROM call TABLESAMPLE SYSTEM (:percent)
        WHERE sid IS NOT NULL AND idempotency_key IS NOT NULL AND tenant_id < 'tenant-10' AND "to" LIKE 'sip:desk-%'
            AND status IN ('completed', 'busy', 'no-answer')
            AND created_at < now() - interval '36 h'
            AND created_at > (SELECT created_at + interval '36 h' FROM call ORDER BY id LIMIT 1)
    ) AS drawn
    ORDER BY turn, tenant_id LIMIT :number
""")


async def draw_calls(session: AsyncSession, rows: int, number: int) -> list[Drawn]:
    found = await session.execute(_DRAW, {"percent": min(100.0, 6e6 / rows), "number": number})
    return [Drawn(**{"from_" if name == "from" else name: value for name, value in row.items()}) for row in found.mappings()]


@dataclass(frozen=True, slots=True)
class Asked:
    planning_ms: float
    ms: float
    buffers: int
    wal_bytes: int
    plan: dict[str, Any]


@dataclass
class Subject:
    """One database, and how it is asked."""

    rows: int
    engine: AsyncEngine
    held: PoolProxiedConnection
    connection: asyncpg.Connection
    drawn: list[Drawn]
    _prepared: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def open(cls, url: str, rows: int, *, draw: int) -> "Subject":
        engine = make_engine(url, pool_size=2, session=MIGRATION_SESSION, statement_timeout_s=None)
        async with AsyncSession(engine) as session:
            drawn = await draw_calls(session, rows, draw)
        if not drawn:
            raise SystemExit(f"{rows:,} calls are too few: they span less than four days.")
        held = await engine.raw_connection()
        event.listen(engine.sync_engine, "before_cursor_execute", _stop)
        return cls(rows, engine, held, held.driver_connection, drawn)

    async def close(self) -> None:
        self.held.close()
        await self.engine.dispose()

    async def ask(self, question: Question, call: Drawn) -> Asked:
        taken = await self._take(question, call)
        name = self._prepared.get(taken.statement)
        if name is None:
            name = self._prepared[taken.statement] = f"statement_{len(self._prepared)}"
            await self.connection.execute(f"PREPARE {name} AS {taken.statement}")
        values = ", ".join(map(_literal, taken.parameters))
        explained = await self.connection.fetchval(f"{_EXPLAIN} {name}{f' ({values})' if values else ''}")
        return _read(explained[0])  # the engine has taught its connections to read JSON

    async def create(self, size: int) -> tuple[Asked, Asked]:
        """So many creations together: their intents, and their outcomes."""
        like = random.choice(self.drawn)
        calls = [intent(like) for _ in range(size)]
        return await self.ask(intents(calls), like), await self.ask(outcomes(calls), like)

    async def _take(self, question: Question, call: Drawn) -> Taken:
        """What would be sent. Nothing is."""
        try:
            async with AsyncSession(self.engine) as session:
                await question.ask(session, call)
        except Taken as taken:
            return taken
        raise AssertionError("it sends nothing")


def _stop(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
    raise Taken(statement, parameters)


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "'{" + ",".join(f'"{item}"' for item in value) + "}'"
    shown = (
        f"{value.total_seconds()} s"
        if isinstance(value, timedelta)
        else value.isoformat()
        if isinstance(value, datetime)
        else value
    )
    return "'" + str(shown).replace("'", "''") + "'"


def _read(explained: dict[str, Any]) -> Asked:
    plan = explained["Plan"]
    nodes = list(_nodes(plan))
    # What a writing CTE that nobody reads has cost is not in the sum of the node above it.
    read = {node.get("CTE Name") for node in nodes}
    apart = [
        node for node in nodes if str(node.get("Subplan Name", "")).startswith("CTE ") and node["Subplan Name"][4:] not in read
    ]
    whole = [plan, *apart]
    return Asked(
        planning_ms=explained["Planning Time"],
        ms=explained["Execution Time"],
        buffers=sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in whole),
        wal_bytes=sum(node.get("WAL Bytes", 0) for node in whole),
        plan=plan,
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)


_DULL = {"Result", "Append", "Nested Loop", "Hash", "Materialize"}


def shape(plan: dict[str, Any]) -> str:
    """The plan in a line: what is read and by which index; partitions of one table are told once."""
    parts: list[str] = []
    for node in _nodes(plan):
        kind, index = node["Node Type"], node.get("Index Name")
        what = index or node.get("Relation Name") or node.get("CTE Name") or ""
        for table in ("call_event", "delivery"):
            if what.startswith(f"{table}_") or what == table:
                what = f"{table} (partitions)"
        part = f"{kind}{' backward' if node.get('Scan Direction') == 'Backward' else ''}{f' {what}' if what else ''}"
        if kind not in _DULL and part not in parts and node.get("Actual Loops", 1):
            parts.append(part)
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Compared:
    question: str
    small: list[Asked]
    large: list[Asked]

    @property
    def time_ratio(self) -> float:
        return median_ms(self.large) / median_ms(self.small)

    @property
    def buffer_ratio(self) -> float:
        return median_buffers(self.large) / max(median_buffers(self.small), 1)

    @property
    def plan(self) -> str:
        return shape(self.large[-1].plan)


def median_ms(asked: Sequence[Asked]) -> float:
    return statistics.median(one.ms for one in asked)


def median_planning_ms(asked: Sequence[Asked]) -> float:
    return statistics.median(one.planning_ms for one in asked)


def median_buffers(asked: Sequence[Asked]) -> float:
    return statistics.median(one.buffers for one in asked)


async def compare(question: Question, small: Subject, large: Subject, *, times: int) -> Compared:
    """In turn, each of the calls drawn. What only reads is asked twice and counted once, so that its pages are in memory."""
    seen: dict[int, list[Asked]] = {small.rows: [], large.rows: []}
    for number in range(times):
        for subject in (small, large):
            call = subject.drawn[number % len(subject.drawn)]
            asked = await subject.ask(question, call)
            if not question.writes:
                asked = await subject.ask(question, call)
            seen[subject.rows].append(asked)
            if question.then:
                await subject.connection.execute(question.then)
    return _compared(question.name, seen[small.rows], seen[large.rows])


async def compare_creations(size: int, small: Subject, large: Subject, *, times: int) -> list[Compared]:
    """So many together: what their intents cost, and their outcomes."""
    seen: dict[int, list[tuple[Asked, Asked]]] = {small.rows: [], large.rows: []}
    for _ in range(times):
        for subject in (small, large):
            seen[subject.rows].append(await subject.create(size))
    return [
        _compared(f"create: {what}, {size} together", *([both[part] for both in seen[rows]] for rows in seen))
        for part, what in enumerate(("intents", "outcomes"))
    ]


def _compared(question: str, small: list[Asked], large: list[Asked]) -> Compared:
    settled = len(small) // 5  # by then a generic plan is there, and what is written to is in memory
    return Compared(question, small[settled:], large[settled:])
