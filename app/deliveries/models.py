"""The table of deliveries to tenants."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Integer, PrimaryKeyConstraint, SmallInteger, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class Delivery(Base):
    """A delivery: the request to a tenant about one event of a call. The row is written with the event; a worker sends it.

    The table is range-partitioned by `at`, like `call_event`. `at` is the time in the UUIDv7 `id` (app.calls.ids).
    `next_attempt_at` is null if there will be no further attempt. Before an attempt, a worker moves `next_attempt_at` into the
    future, so that other workers leave the delivery alone meanwhile.
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
    at: Mapped[datetime]
    tenant_id: Mapped[str] = mapped_column(Text)
    # The event, and its position in the order of events (app.calls.outbox).
    event: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(SmallInteger)
    # Twilio's sequence number; null without one, or when no callback reported the event.
    sequence: Mapped[int | None] = mapped_column(Integer)
    # Only rows that an early version wrote have these three values. Otherwise they are null, and follow from the call
    # (app.deliveries.stored_fields).
    webhook_id: Mapped[str | None] = mapped_column(Text)
    url: Mapped[str | None] = mapped_column(Text)
    method: Mapped[str | None] = mapped_column(Text)
    # The fields of the form, by Twilio's names. Null if the call event with the same id as the delivery has them.
    fields: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    state: Mapped[str] = mapped_column(Text, server_default=text("'pending'"))
    # When the delivery was written or requested again. Attempts end three days later.
    pending_since: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    # Whether the delivery waits for the delivery of an earlier event of its call.
    held: Mapped[bool] = mapped_column(server_default=text("false"))
    last_attempt_at: Mapped[datetime | None]
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None]
