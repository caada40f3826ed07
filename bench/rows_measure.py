"""Asks the same of two databases in turn, and reads from Postgres what it cost.

A statement is captured where the application hands it to the driver, prepared as the driver prepares it, and run by EXPLAIN. So
the plan is the one that the application gets, after some repetitions also a generic one. The time is Postgres's own. Buffers
are pages of 8 KiB that were read; other work on the machine does not change them.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.sql import Literal
from sqlalchemy import event, make_url

from app.calls.models import Call
from app.database.connection import HOT_PATH_SETTINGS, SESSION_SETTINGS, Connection, Connector
from app.database.engine import Database
from app.jobs.partitions import PARTITIONED
from app.schema import migrate
from bench.report import markdown_table
from bench.rows_data import load
from bench.rows_questions import HOT, Question, creations, draw_calls, questions
from bench.subjects import libpq

GOAL = 1.3
_DRAWN = 60
_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, WAL, TIMING OFF, FORMAT JSON) EXECUTE"
# A worker moves the due times of the calls that it has claimed, and deletes their leases. Here they are due again at once.
_RELEASE = """
    WITH claimed AS (DELETE FROM lease RETURNING call_id, due_at)
    UPDATE call SET refresh_at = CASE refresh_at WHEN due_at THEN now() ELSE refresh_at END,
                    search_at = CASE search_at WHEN due_at THEN now() ELSE search_at END
    FROM claimed WHERE id = call_id
"""
_HIDDEN_NODES = {"Result", "Append", "Nested Loop", "Hash", "Materialize"}


class Cost(NamedTuple):
    ms: float
    planning_ms: float
    buffers: float
    wal_bytes: float

    @classmethod
    def median(cls, costs: Iterable[Self]) -> Self:
        return cls(*map(median, zip(*costs, strict=True)))


class Captured(Exception):
    """A statement that the application was about to send, its parameters, and whether it is hot. It is not sent."""


def _capture(_connection: Any, _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool) -> None:
    raise Captured(statement, parameters, HOT in context.execution_options)


@dataclass
class Subject:
    """One database, some of its calls, and two connections with the settings of the application's own."""

    url: str
    rows: int
    database: Database
    drawn: Sequence[Call]
    connection: Connection
    hot_connection: Connection
    _prepared: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def load(cls, server: str, name: str, rows: int) -> Self:
        """Makes the database, and opens connections that stay open until the process ends."""
        with psycopg.connect(libpq(server), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = make_url(server).set(database=name).render_as_string(hide_password=False)
        await asyncio.to_thread(migrate, url)
        await asyncio.to_thread(load, libpq(url), rows)
        database = Database(url, pool_size=1)
        async with database.begin() as session:
            drawn = await draw_calls(session, rows, _DRAWN)
        if not drawn:
            raise SystemExit(f"{rows:,} calls are too few: they span less than four days.")
        event.listen(database.engine.sync_engine, "before_cursor_execute", _capture)
        connections = [await Connector(url, settings).connect() for settings in (SESSION_SETTINGS, HOT_PATH_SETTINGS)]
        return cls(url, rows, database, drawn, *connections)

    async def ask(self, question: Question, call: Call) -> tuple[Cost, dict[str, Any]]:
        """Returns the cost and the plan."""
        statement, parameters, is_hot = await self._capture(question, call)
        connection = self.hot_connection if is_hot else self.connection
        if (name := self._prepared.get(statement)) is None:
            name = self._prepared[statement] = f"statement_{len(self._prepared)}"
            await connection.execute(f"PREPARE {name} AS {statement}")
        values = ", ".join(Literal(list(one) if isinstance(one, tuple) else one).as_string() for one in parameters)
        (explained,) = json.loads(await connection.fetchval(f"{_EXPLAIN} {name}{f' ({values})' if values else ''}"))
        return _cost(explained), explained["Plan"]

    async def _capture(self, question: Question, call: Call) -> tuple[Any, ...]:
        try:
            async with self.database.begin() as session:
                await question(session, call)
        except Captured as captured:
            return captured.args
        raise AssertionError("it sends nothing")


def _cost(explained: dict[str, Any]) -> Cost:
    plan = explained["Plan"]
    nodes = list(_nodes(plan))
    # The sum of a node does not contain what a writing CTE cost that nothing reads.
    read = {f"CTE {node.get('CTE Name')}" for node in nodes}
    unread = [node for node in nodes if (name := node.get("Subplan Name", "")).startswith("CTE ") and name not in read]
    buffers = sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in (plan, *unread))
    wal_bytes = sum(node.get("WAL Bytes", 0) for node in (plan, *unread))
    return Cost(explained["Execution Time"], explained["Planning Time"], buffers, wal_bytes)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from _nodes(below)


def _shape(plan: dict[str, Any]) -> str:
    """Returns the plan in a line: what is read and by which index. Partitions of one table are shown once."""
    parts: dict[str, None] = {}
    for node in _nodes(plan):
        what = node.get("Index Name") or node.get("Relation Name") or node.get("CTE Name") or ""
        what = re.sub(rf"^({'|'.join(PARTITIONED)})(_.*)?$", r"\1 (partitions)", what)
        if node["Node Type"] not in _HIDDEN_NODES and node.get("Actual Loops", 1):
            backward = "backward" if node.get("Scan Direction") == "Backward" else ""
            parts[" ".join(filter(None, (node["Node Type"], backward, what)))] = None
    return ", ".join(parts)


async def compare_statements(small: Subject, large: Subject, *, times: int) -> list[str]:
    """Returns two tables: what each statement costs in both databases, and its plan in the large one."""
    costs, plans = [], []
    for name, question in (questions() | creations(1) | creations(32)).items():
        (few, _), (many, plan) = await _compare(question, small, large, times=times)
        time_ratio, buffer_ratio = _ratio(many.ms / few.ms), _ratio(many.buffers / max(few.buffers, 1))
        times_ms, planning_ms = (f"{few.ms:.3f}", f"{many.ms:.3f}"), (f"{few.planning_ms:.3f}", f"{many.planning_ms:.3f}")
        buffers = f"{few.buffers:.0f}", f"{many.buffers:.0f}"
        costs.append([name, *times_ms, time_ratio, *planning_ms, *buffers, buffer_ratio])
        plans.append([name, _shape(plan)])
        print(f"{name:36} time × {time_ratio:8}   buffers × {buffer_ratio:8}   {_shape(plan)}", flush=True)
    head = ("statement", "ms", "ms", "ratio", "planning ms", "planning ms", "buffers", "buffers", "ratio")
    return [
        f"### {large.rows:,} calls beside {small.rows:,}",
        f"Of each pair of columns the first is at {small.rows:,} calls, the second at {large.rows:,}; "
        f"ratios above {GOAL} are bold.",
        markdown_table(head, costs),
        f"### Plans at {large.rows:,}",
        markdown_table(("statement", "plan"), plans, text=2),
    ]


async def _compare(question: Question, *subjects: Subject, times: int) -> list[tuple[Cost, dict[str, Any]]]:
    """Asks about the drawn calls in turn. Returns the median cost in each database, and the last plan.

    What only reads is asked twice and counted once, so that its pages are in memory.
    """
    seen: list[list[tuple[Cost, dict[str, Any]]]] = [[] for _ in subjects]
    for number in range(times):
        for subject, asked in zip(subjects, seen, strict=True):
            call = subject.drawn[number % len(subject.drawn)]
            cost, plan = await subject.ask(question, call)
            if not any(node["Node Type"] == "ModifyTable" for node in _nodes(plan)):
                cost, plan = await subject.ask(question, call)
            asked.append((cost, plan))
            await subject.connection.execute(_RELEASE)
    settled = times // 5  # by then a generic plan is there, and what is written to is in memory
    return [(Cost.median(cost for cost, _ in asked[settled:]), asked[-1][1]) for asked in seen]


def _ratio(value: float) -> str:
    return f"**{value:.2f}**" if value > GOAL else f"{value:.2f}"
