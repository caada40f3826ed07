"""Heartbeats of workers: each running worker has one row, so that other processes see that the worker runs.

The functions never commit: their callers do.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Text, Uuid, func, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class WorkerHeartbeat(Base):
    __tablename__ = "worker_heartbeat"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    version: Mapped[str] = mapped_column(Text)
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


async def record_heartbeat(session: AsyncSession, worker: UUID, *, version: str) -> None:
    """Records that the worker is running. Deletes heartbeats older than an hour, which killed workers have left."""
    await session.execute(
        text(
            "INSERT INTO worker_heartbeat (id, version, seen_at) VALUES (:id, :version, now()) "
            "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
        ),
        {"id": worker, "version": version},
    )
    await session.execute(text("DELETE FROM worker_heartbeat WHERE seen_at < now() - interval '1 hour'"))


async def delete_heartbeat(session: AsyncSession, worker: UUID) -> None:
    await session.execute(text("DELETE FROM worker_heartbeat WHERE id = :id"), {"id": worker})


WORKER_SUMMARY_SQL: Final = """
    SELECT count(*) FILTER (WHERE seen_at > now() - interval '1 minute') AS running, max(seen_at) AS last_seen_at
    FROM worker_heartbeat
"""
"""SQL that returns the columns of a WorkerSummary."""


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    # Workers whose last heartbeat is less than a minute old.
    running: int
    # By Postgres's clock. None: no heartbeat within the last hour, or all workers have shut down normally.
    last_seen_at: datetime | None


async def summarize_workers(session: AsyncSession) -> WorkerSummary:
    return WorkerSummary(*(await session.execute(text(WORKER_SUMMARY_SQL))).one())
