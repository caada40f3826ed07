"""Asks the same of two databases in turn, and reads from Postgres what it cost.

A statement is taken as it leaves the application for the driver, prepared as the driver prepares it, and run by EXPLAIN: so
the plan is the one that the application gets, after some repetitions also a generic one. The time is Postgres's own. Buffers
are pages of 8 KiB that were looked at; other work on the machine does not change them.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from psycopg.sql import Literal
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection

from app.database.connection import MIGRATION_SETTINGS
from app.database.engine import make_engine
from bench.rows_questions import Captured, Drawn, Question

_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, WAL, TIMING OFF, FORMAT JSON) EXECUTE"
# Calls of the ten largest tenants in turn, whose pages are full at any size. Not from the first and the last day, so that the
# days around are whole.
_DRAW = text("""
    SELECT id, sid, tenant_id, account_id, account_sid, "to", "from" AS from_, status, created_at, idempotency_key,
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
    return [Drawn(**row) for row in found.mappings()]


@dataclass(frozen=True, slots=True)
class Asked:
    planning_ms: float
    ms: float
    buffers: int
    wal_bytes: int
    plan: dict[str, Any]


def median(asked: Sequence[Asked], attribute: str) -> float:
    return float(statistics.median(getattr(one, attribute) for one in asked))


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
        engine = make_engine(url, pool_size=2, session=MIGRATION_SETTINGS, statement_timeout_s=None)
        async with AsyncSession(engine) as session:
            drawn = await draw_calls(session, rows, draw)
        if not drawn:
            raise SystemExit(f"{rows:,} calls are too few: they span less than four days.")
        held = await engine.raw_connection()
        event.listen(engine.sync_engine, "before_cursor_execute", _capture)
        return cls(rows, engine, held, held.driver_connection, drawn)

    async def close(self) -> None:
        self.held.close()
        await self.engine.dispose()

    async def ask(self, question: Question, call: Drawn) -> Asked:
        captured = await self._capture(question, call)
        name = self._prepared.get(captured.statement)
        if name is None:
            name = self._prepared[captured.statement] = f"statement_{len(self._prepared)}"
            await self.connection.execute(f"PREPARE {name} AS {captured.statement}")
        values = ", ".join(Literal(list(one) if isinstance(one, tuple) else one).as_string() for one in captured.parameters)
        explained = await self.connection.fetchval(f"{_EXPLAIN} {name}{f' ({values})' if values else ''}")
        return _read(explained[0])  # the engine has set up its connections to decode JSON

    async def _capture(self, question: Question, call: Drawn) -> Captured:
        try:
            async with AsyncSession(self.engine) as session:
                await question.ask(session, call)
        except Captured as captured:
            return captured
        raise AssertionError("it sends nothing")


def _capture(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
    raise Captured(statement, parameters)


def _read(explained: dict[str, Any]) -> Asked:
    plan = explained["Plan"]
    nodes = list(_nodes(plan))
    # The sum of a node does not contain what a writing CTE cost that nothing reads.
    read = {f"CTE {node.get('CTE Name')}" for node in nodes}
    subplans = [(node.get("Subplan Name", ""), node) for node in nodes]
    whole = [plan, *(node for name, node in subplans if name.startswith("CTE ") and name not in read)]
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


_NOT_SHOWN = {"Result", "Append", "Nested Loop", "Hash", "Materialize"}


def _shape(plan: dict[str, Any]) -> str:
    """Returns the plan in a line: what is read and by which index. Partitions of one table are shown once."""
    parts: dict[str, None] = {}
    for node in _nodes(plan):
        what = node.get("Index Name") or node.get("Relation Name") or node.get("CTE Name") or ""
        for table in ("call_event", "delivery"):
            if what == table or what.startswith(f"{table}_"):
                what = f"{table} (partitions)"
        if node["Node Type"] not in _NOT_SHOWN and node.get("Actual Loops", 1):
            backward = "backward" if node.get("Scan Direction") == "Backward" else ""
            parts[" ".join(filter(None, (node["Node Type"], backward, what)))] = None
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Compared:
    question: str
    small: list[Asked]
    large: list[Asked]

    @property
    def time_ratio(self) -> float:
        return median(self.large, "ms") / median(self.small, "ms")

    @property
    def buffer_ratio(self) -> float:
        return median(self.large, "buffers") / max(median(self.small, "buffers"), 1)

    @property
    def plan(self) -> str:
        return _shape(self.large[-1].plan)


async def compare(question: Question, small: Subject, large: Subject, *, times: int) -> Compared:
    """Asks about the drawn calls in turn. What only reads is asked twice and counted once, so that its pages are in memory."""
    seen: tuple[list[Asked], list[Asked]] = ([], [])
    for number in range(times):
        for subject, asked in zip((small, large), seen, strict=True):
            call = subject.drawn[number % len(subject.drawn)]
            if not question.writes:
                await subject.ask(question, call)
            asked.append(await subject.ask(question, call))
            if question.then:
                await subject.connection.execute(question.then)
    settled = times // 5  # by then a generic plan is there, and what is written to is in memory
    return Compared(question.name, seen[0][settled:], seen[1][settled:])
