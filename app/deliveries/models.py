"""The table of what tenants are told."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, Index, Integer, PrimaryKeyConstraint, SmallInteger, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base

Time = DateTime(timezone=True)


class Delivery(Base):
    """What a tenant is told of one event of a call: an outbox, written with the event, worked off by the worker.

    Range-partitioned by `at`, as `call_event` is; `at` is the time that `id` begins with (app.calls.ids).
    `next_attempt_at` is null when nothing more is to be done; moving it forward is also the lease of whoever sends.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        PrimaryKeyConstraint("call_id", "at", "id"),
        CheckConstraint("state IN ('pending', 'delivered', 'gave_up')", name="state"),
        CheckConstraint("(state = 'pending') = (next_attempt_at IS NOT NULL)", name="pending_has_next_attempt"),
        Index(
            "ix_delivery_tenant_id_next_attempt_at",
            "tenant_id",
            "next_attempt_at",
            postgresql_where=text("next_attempt_at IS NOT NULL"),
        ),
        Index("ix_delivery_tenant_id_at", "tenant_id", "at"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID] = mapped_column(Uuid)
    call_id: Mapped[UUID] = mapped_column(Uuid)
    at: Mapped[datetime] = mapped_column(Time)
    tenant_id: Mapped[str] = mapped_column(Text)
    # initiated, ringing, answered or completed, and its place in that order.
    event: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(SmallInteger)
    # Twilio's sequence number; null when it gave none, or when no callback told of the event.
    sequence: Mapped[int | None] = mapped_column(Integer)
    # The same for every attempt, so that a receiver knows a repetition.
    webhook_id: Mapped[str] = mapped_column(Text)
    url: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    # The form's fields, as Twilio named them.
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)

    state: Mapped[str] = mapped_column(Text, server_default=text("'pending'"))
    # When it was written, or asked for again: it is tried for three days from then.
    pending_since: Mapped[datetime] = mapped_column(Time, server_default=func.now())
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime | None] = mapped_column(Time, server_default=func.now())
    # Waits for an earlier event of its call.
    held: Mapped[bool] = mapped_column(server_default=text("false"))
    last_attempt_at: Mapped[datetime | None] = mapped_column(Time)
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None] = mapped_column(Time)
