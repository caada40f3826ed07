"""Creates, finds and drops monthly partitions. Does not import the table models."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

_LOCK_NOT_AVAILABLE, _UNDEFINED_TABLE = "55P03", "42P01"
_DROP_LOCK_TIMEOUT_MS = 100


@dataclass(frozen=True, slots=True)
class MonthRange:
    """A range of whole months in UTC, from the day `since` to the day before `until`. Both are the first day of a month."""

    since: date
    until: date

    @classmethod
    def from_first_to_last(cls, first: datetime, last: datetime) -> Self:
        """Returns the months from the one that contains `first` to the one that contains `last`."""
        return cls(_first_day_of_month(first.astimezone(UTC).date(), 0), _first_day_of_month(last.astimezone(UTC).date(), 1))

    def __contains__(self, at: datetime) -> bool:
        return self.since <= at.astimezone(UTC).date() < self.until

    def with_earlier_start(self, span: timedelta) -> Self:
        """Returns a range with the same end that begins `span` earlier, rounded down to the first day of a month."""
        return type(self)(_first_day_of_month(self.since - span, 0), self.until)

    def condition_sql(self, column: str) -> str:
        """Returns SQL that is true if the time in `column` is in the range. The bounds are literals, not parameters."""
        # Without statistics, as in the first minutes of a month, Postgres takes `>= … AND < …` for a condition that leaves one
        # row in two hundred, and then chooses indexes that read all rows of the month. It has no such guess for this form.
        since, until = f"'{self.since} 00:00+00'", f"'{self.until} 00:00+00'"
        return f"(({column} > {since} OR {column} = {since}) AND {column} < {until})"


@dataclass(frozen=True, slots=True)
class Partition:
    """A monthly partition: the part of `table` that has the rows of one month."""

    table: str
    name: str

    @property
    def start(self) -> datetime:
        return datetime.strptime(self.name, f"{self.table}_%Y_%m").replace(tzinfo=UTC)

    @property
    def end(self) -> datetime:
        return datetime.combine(_first_day_of_month(self.start.date(), 1), datetime.min.time(), UTC)


async def create_missing_partitions(session: AsyncSession, table: str, *, months_ahead: int) -> None:
    """Creates the monthly partitions of `table` that are missing for this month and the next `months_ahead` months.

    Several workers may call this at the same time. If `<table>_default` has rows of such a month, the rows are moved to the new
    partition, because Postgres otherwise refuses to attach it.
    """
    await session.execute(text("SET LOCAL lock_timeout = '5s'"))
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:table))"), {"table": f"partitions of {table}"})
    today: date = (await session.scalars(text("SELECT (now() AT TIME ZONE 'UTC')::date"))).one()
    for offset in range(months_ahead + 1):
        first, following = _first_day_of_month(today, offset), _first_day_of_month(today, offset + 1)
        partition, default = f"{table}_{first:%Y_%m}", f"{table}_default"
        if await session.scalar(text("SELECT to_regclass(:name)"), {"name": partition}):
            continue
        moved = f"DELETE FROM {default} WHERE at >= '{first}' AND at < '{following}' RETURNING *"  # noqa: S608
        for statement in (
            f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE",
            f"CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)",
            f"WITH moved AS ({moved}) INSERT INTO {partition} SELECT * FROM moved",  # noqa: S608  # our own names
            f"ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ('{first}') TO ('{following}')",
        ):
            await session.execute(text(statement))


async def expired_partitions(session: AsyncSession, table: str, *, before: datetime) -> list[Partition]:
    """Returns the partitions whose month ended at the time `before` or earlier, the oldest first.

    The default partition and partitions that do not follow the naming scheme are never returned.
    """
    names = await session.scalars(
        text("SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = to_regclass(:table)"),
        {"table": table},
    )
    partitions = [Partition(table, name) for name in sorted(names) if re.fullmatch(rf"{table}_\d{{4}}_\d{{2}}", name)]
    return [partition for partition in partitions if partition.end <= before]


async def try_lock_partition(session: AsyncSession, partition: Partition) -> bool:
    """Locks the partition and its parent table exclusively, so that all other sessions wait until the transaction ends.

    Returns whether both are locked: False if a lock is not free within 0.1 s, or if another worker has dropped the partition.

    Dropping a partition needs a lock of its parent table. `DETACH … CONCURRENTLY` needs no such lock, but Postgres refuses this
    command for a table with a default partition.
    """
    await session.execute(text(f"SET LOCAL lock_timeout = '{_DROP_LOCK_TIMEOUT_MS}ms'"))
    try:
        async with session.begin_nested():
            for table in (partition.table, partition.name):
                await session.execute(text(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE"))
    except DBAPIError as error:
        # A long query reads it, or another worker has dropped it.
        if getattr(error.orig, "sqlstate", None) in (_LOCK_NOT_AVAILABLE, _UNDEFINED_TABLE):
            return False
        raise
    return True


async def drop_partition(session: AsyncSession, partition: Partition) -> None:
    await session.execute(text(f"DROP TABLE {partition.name}"))


def _first_day_of_month(day: date, offset: int) -> date:
    """Returns the first day of the month that is `offset` months after the month of `day`."""
    months = day.year * 12 + day.month - 1 + offset
    return date(months // 12, months % 12 + 1, 1)
