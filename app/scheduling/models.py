"""Tables for queues, pace (dialling limits), waiting scheduled calls, and the dial slots of calls under way."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

NO_QUEUE: Final = UUID(int=0)
"""The `queue_id` of a scheduled call in no queue. It is not null, so that one index serves calls with and without a queue."""


class Queue(Base):
    """A named set of a tenant's scheduled calls. It can have dialling limits and hours of its own, and can be paused."""

    __tablename__ = "queue"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"))
    name: Mapped[str] = mapped_column(Text)
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    # When calls may ring (app.scheduling.hours); null: the tenant's hours, if it has any.
    hours: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # The default of `ring_by`, in seconds after `not_before`; null: 15 minutes.
    ring_within_s: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Pace(Base):
    """The dialling limits of an account or a queue, and how much of them is used.

    A transaction in which a worker takes the right to dial calls locks the row, so that no two transactions use the same
    capacity.
    """

    __tablename__ = "pace"
    __table_args__ = (
        CheckConstraint("calls_per_second > 0", name="calls_per_second"),
        CheckConstraint("burst > 0", name="burst"),
        CheckConstraint("max_concurrent > 0", name="max_concurrent"),
    )

    # The id of an account or of a queue.
    subject_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    # Null: not limited.
    calls_per_second: Mapped[Decimal | None] = mapped_column(Numeric)
    burst: Mapped[int] = mapped_column(Integer, server_default=text("2"))
    max_concurrent: Mapped[int | None] = mapped_column(Integer)
    # The token bucket as one timestamp (GCRA's theoretical arrival time): when the next call would be due at an even pace.
    next_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    # The number of rows in `dial_slot` of this account or queue.
    in_use: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # The number of grants (app.scheduling.grant_counters), and the time of the last one.
    grants: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    granted_at: Mapped[datetime | None]
    # While Twilio refuses the account's scheduled calls: since when, and when one is tried again. See
    # app.scheduling.refused_accounts.
    refused_since: Mapped[datetime | None]
    probe_at: Mapped[datetime | None]


class ScheduledDial(Base):
    """A scheduled call that waits to be dialled.

    The process that deletes the row may dial the call, or end it without dialling.
    """

    __tablename__ = "scheduled_dial"
    __table_args__ = (
        Index(None, "account_id", "priority", "caller_id", "queue_id", "due_at", "call_id"),
        Index(None, "account_id", "due_at"),
        Index(None, "queue_id", "due_at"),
        Index(None, "ring_by"),
        CheckConstraint("ring_by > not_before", name="ring_by"),
    )

    call_id: Mapped[UUID] = mapped_column(ForeignKey("call.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(Text)
    account_id: Mapped[UUID] = mapped_column(Uuid)
    queue_id: Mapped[UUID] = mapped_column(Uuid)
    # The id of the API key or workload that requested the call. Keys and workloads are served in turn (DialTurn).
    caller_id: Mapped[UUID] = mapped_column(Uuid)
    # The index of the priority in PRIORITIES; 0 is dialled first.
    priority: Mapped[int] = mapped_column(SmallInteger)
    not_before: Mapped[datetime]
    ring_by: Mapped[datetime]
    # The earliest time of a grant: `not_before`, the next hours in which the call may ring, or the time of the next attempt.
    due_at: Mapped[datetime]
    # The callee's zone, if the request has one.
    time_zone: Mapped[str | None] = mapped_column(Text)
    # How often a worker has put the call back after it took a grant, for example because Twilio could not be reached.
    tries: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class DialTurn(Base):
    """The turn of an API key or workload at an account: when a worker last took a grant for one of its calls.

    A grant is a worker's right to dial one scheduled call. Of the waiting calls with the same priority, the next grant is for a
    call of the API key or workload with the oldest time. Before the first grant, the time is that of the row's insertion. The
    row is deleted when its time is more than an hour ago and no call of the API key or workload waits.
    """

    __tablename__ = "dial_turn"
    __table_args__ = (Index(None, "account_id", "last_grant_at"),)

    account_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    caller_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    # A grant sets a later time than all others of the account have. It may be in the future if the clock has stepped back.
    last_grant_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class DialSlot(Base):
    """A call that may be dialled now or is under way. It counts toward `max_concurrent` of its account and its queue."""

    __tablename__ = "dial_slot"
    __table_args__ = (
        Index(None, "account_id"),
        Index(None, "queue_id", postgresql_where=text("queue_id IS NOT NULL")),
        Index(None, "until"),
        Index(None, "ring_by", postgresql_where=text("ring_by IS NOT NULL")),
        Index(None, "missing_since", postgresql_where=text("missing_since IS NOT NULL")),
    )

    call_id: Mapped[UUID] = mapped_column(ForeignKey("call.id", ondelete="CASCADE"), primary_key=True)
    account_id: Mapped[UUID] = mapped_column(Uuid)
    queue_id: Mapped[UUID | None] = mapped_column(Uuid)
    # The API key or workload that requested the call; null if it was not scheduled.
    caller_id: Mapped[UUID | None] = mapped_column(Uuid)
    granted_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    # The latest time at which the call can end: the grant or `ring_by`, plus ring timeout, time limit and a margin.
    until: Mapped[datetime]
    # The deadline. If Twilio still has the call in its queue then, the call is canceled. Null: there is no deadline, or it has
    # passed and nothing is left to do.
    ring_by: Mapped[datetime | None]
    # Since when Twilio answers 404 for the call. Null: it does not. A new call may get 404 at first.
    missing_since: Mapped[datetime | None]


class GrantGuard(Base):
    """A table with one row: the only server on which workers may take grants, and whether grants are halted.

    app.scheduling.grant_halts explains why grants are halted. A grant is a worker's right to dial one scheduled call. A
    database that was restored or copied may have lost grants. Such a database runs on another server than the row says.
    """

    __tablename__ = "grant_guard"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default=text("1"))
    # The server and the table on which workers may take grants (CURRENT_SERVER_SQL).
    server: Mapped[str] = mapped_column(Text)
    # All that was committed before this time is in the database, because this value was committed later.
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    # Since when grants are halted; null: they are not halted.
    halted_at: Mapped[datetime | None]
    # Why grants are halted (HaltReason). Workers of the previous version write null for `server`.
    halt_reason: Mapped[str | None] = mapped_column(Text)
    # When grants were released, or another server was accepted. Older grant counts are obsolete. Null: never.
    released_at: Mapped[datetime | None]
