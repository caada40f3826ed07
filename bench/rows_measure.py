"""Runs the same statements on two databases in turn, and reads their costs from Postgres.

The application's own functions run on a connection with the application's settings. So Postgres uses the same plans as in
service, and after some repetitions also generic plans. Every transaction is rolled back.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.calls.models import Call
from app.database.engine import Database
from app.schema import migrate
from bench.report import markdown_table
from bench.rows_data import load_calls
from bench.rows_questions import QUESTIONS, Question, draw_calls
from bench.subjects import libpq_url, make_database

MAX_RATIO = 1.3
_DRAWN_CALLS = 60
_COST_SQL = text("""
    SELECT sum(total_exec_time), sum(total_plan_time), sum(shared_blks_hit + shared_blks_read)::float
    FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'
""")


class Cost(NamedTuple):
    """The cost of statements as Postgres itself measures it (pg_stat_statements).

    `buffers` is the number of pages of 8 KiB that were read. Other work on the machine does not change this number.
    """

    ms: float
    planning_ms: float
    buffers: float

    @classmethod
    def median(cls, costs: Iterable[Self]) -> Self:
        return cls(*map(median, zip(*costs, strict=True)))


@dataclass
class MeasuredDatabase:
    """One of the databases to compare, its number of calls, and a random sample of these calls.

    The calls of the sample are the parameters of the measured statements.
    """

    database: Database
    rows: int
    drawn: Sequence[Call]

    @classmethod
    async def load(cls, server: str, name: str, rows: int) -> Self:
        url = make_database(server, name)
        await asyncio.to_thread(migrate, url)
        await asyncio.to_thread(load_calls, libpq_url(url), rows)
        database = Database(url, pool_size=1)
        async with AsyncSession(database.engine) as session:
            drawn = await draw_calls(session, rows, _DRAWN_CALLS)
        if not drawn:
            raise SystemExit(f"{rows:,} calls are too few: they span less than four days.")
        return cls(database, rows, drawn)

    async def measure_cost(self, question: Question, number: int, *, without_index: str | None = None) -> Cost:
        """Runs the statements of `question` about one of the sampled calls twice, and returns the cost of the second run.

        In the second run the pages are in memory. `number` chooses the call. If `without_index` is given, drops this index
        before. Rolls everything back at the end.
        """
        call = self.drawn[number % len(self.drawn)]
        async with AsyncSession(self.database.engine) as session:
            if without_index:
                await session.execute(text(f"DROP INDEX {without_index}"))
            await question(session, call)
            await session.execute(text("SELECT pg_stat_statements_reset()"))
            await question(session, call)
            return Cost(*(await session.execute(_COST_SQL)).one())


async def compare_statements(small: MeasuredDatabase, large: MeasuredDatabase, *, times: int) -> list[str]:
    """Measures what each of the QUESTIONS costs in both databases. Returns a report in Markdown, with a table."""
    table = []
    for name, question in QUESTIONS.items():
        turns = [[await subject.measure_cost(question, number) for subject in (small, large)] for number in range(times)]
        few, many = map(Cost.median, zip(*turns[times // 5 :], strict=True))  # by then a generic plan is there
        cells = [*_cells_with_ratio(few.ms, many.ms, digits=3), f"{few.planning_ms:.3f}", f"{many.planning_ms:.3f}"]
        cells += _cells_with_ratio(few.buffers, many.buffers, digits=0)
        table.append([name, *cells])
        print(f"{name:40}", *(f"{cell:>9}" for cell in cells), flush=True)
    return [
        f"### {large.rows:,} calls beside {small.rows:,}",
        f"Of each pair of columns the first is at {small.rows:,} calls, the second at {large.rows:,}; "
        f"ratios above {MAX_RATIO} are bold.",
        markdown_table(("question", "ms", "ms", "ratio", *["planning ms"] * 2, "buffers", "buffers", "ratio"), table),
    ]


def _cells_with_ratio(few: float, many: float, *, digits: int) -> list[str]:
    """Returns three cells: both values, and the ratio of `many` to `few`. The ratio is bold if it is above MAX_RATIO."""
    ratio = many / max(few, 10**-digits)
    return [f"{few:.{digits}f}", f"{many:.{digits}f}", f"**{ratio:.2f}**" if ratio > MAX_RATIO else f"{ratio:.2f}"]
