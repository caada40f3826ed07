"""Reads figures, such as the number of started calls, for the plots of the page *Now*.

A worker counts the figures for each minute and for each hour.
"""
# ruff: noqa: S608  # The statement is put together from constants.

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from app.console.reads import fetch_with_time_limit
from app.database.pool import TransactionRunner
from app.rollups.models import ALL_TENANTS

MINUTE_FIGURES_SINCE_SQL: Final = "date_trunc('hour', now() - interval '1 day')"
"""SQL for a time: from this time on, the figures of minutes are read.

For earlier times, the figures of hours are read: those of minutes may have been deleted.
"""


@dataclass(frozen=True, slots=True)
class CallFigures:
    """The figures of one period, such as the number of calls that started. app.rollups.models describes each field."""

    scheduled: int = 0
    pending: int = 0
    started: int = 0
    not_started: int = 0
    unknown: int = 0
    callbacks: int = 0
    callback_missing: int = 0
    delivered: int = 0
    gave_up: int = 0
    undelivered: int = 0
    unpriced: int = 0
    spent: Mapping[str, Decimal] = field(default_factory=dict)
    latency: Sequence[int] = ()
    waiting: int | None = None


_FIGURE_COLUMNS: Final = tuple(CallFigures.__dataclass_fields__)
# A period that was counted has a row for all tenants together. If a tenant has no row for such a period, its figures are zero.
# Only `waiting` may be unknown in such a period: it is null in the row for all tenants if no worker ran in the period.
_FIGURE_COLUMN_SQL: Final = {"waiting": "CASE WHEN every.waiting IS NOT NULL THEN coalesce(own.waiting, 0) END AS waiting"}
_FIGURES_OF_LENGTH_SQL: Final = f"""
    SELECT every.start, {", ".join(_FIGURE_COLUMN_SQL.get(name, f"own.{name}") for name in _FIGURE_COLUMNS)}
    FROM rollup AS every LEFT JOIN rollup AS own
        ON own.tenant_id = $1 AND own.seconds = every.seconds AND own.start = every.start
    WHERE every.tenant_id = '{ALL_TENANTS}' AND every.latency IS NOT NULL AND every.seconds = %d
"""
# Without figures, this returns one row that has only the time.
_READ_FIGURES: Final = f"""
    SELECT clock.now, figures.* FROM (SELECT now() AS now) AS clock LEFT JOIN (
        {_FIGURES_OF_LENGTH_SQL % 3600} AND every.start >= now() - $2::interval AND every.start < {MINUTE_FIGURES_SINCE_SQL}
        UNION ALL
        {_FIGURES_OF_LENGTH_SQL % 60} AND every.start >= greatest(now() - $2::interval, {MINUTE_FIGURES_SINCE_SQL})
    ) AS figures ON true ORDER BY start
"""


@dataclass(frozen=True, slots=True)
class RolledUpFigures:
    """The figures of several periods, each with the start of its period.

    In about the last day, a period is a minute; before that, an hour.

    Periods that no worker has counted are missing.
    """

    now: datetime
    """The time of Postgres's clock when the figures were read."""
    figures: list[tuple[datetime, CallFigures]]


async def read_figures(database: TransactionRunner, tenant_id: str | None, *, span: timedelta) -> RolledUpFigures:
    """Reads the figures of the last `span` for one tenant. If `tenant_id` is None, reads those of all tenants together.

    Raises DatabaseUnavailable if the statement fails or takes too long.
    """
    rows = await fetch_with_time_limit(database, _READ_FIGURES, tenant_id or ALL_TENANTS, span)
    return RolledUpFigures(rows[0]["now"], [(row["start"], _figures_from_row(row)) for row in rows if row["start"] is not None])


def _figures_from_row(row: Mapping[str, Any]) -> CallFigures:
    known = {name: row[name] for name in _FIGURE_COLUMNS if row[name] is not None}
    if "spent" in known:
        known["spent"] = json.loads(known["spent"], parse_float=Decimal, parse_int=Decimal)
    return CallFigures(**known)
