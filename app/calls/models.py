"""The tables of calls, of stored requests to end a call, and of the events of calls."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.calls.last_answer import LastTwilioAnswerMixin
from app.database.base import Base

# True for a call that may exist at Twilio although its record has no sid. Queries repeat this condition literally, because
# Postgres uses a partial index only if it can prove that the query implies the condition of the index.
MAY_HAVE_STARTED_SQL = text("(execution IN ('pending', 'unknown') OR settled_by = 'none_found')")

# True for a scheduled call that was not dialled, according to its record: it waits, was canceled, or has expired. After a
# restore or a failover, the database may lack the call's grant (the right to dial it): the call may then have been dialled.
NEVER_DIALLED_SQL = text("(execution = 'scheduled' OR settled_by IN ('canceled', 'expired'))")


class Call(LastTwilioAnswerMixin, Base):
    """The record of one creation of a call, by a request or as a redial, and of its outcome.

    `id` is Callgate's id, a UUIDv7, so ids are ordered by time. `sid` is Twilio's CallSid.

    The table is not partitioned: (tenant, idempotency key) and sid must be unique in the whole table, and Postgres cannot
    guarantee that across partitions.
    """

    __tablename__ = "call"
    # A write reads the server's defaults at once, because `updated_at` is used after the session has ended.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012  # declared as SQLAlchemy documents it
    __table_args__ = (
        CheckConstraint("execution IN ('scheduled', 'pending', 'started', 'not_started', 'unknown')", name="execution"),
        CheckConstraint("(execution = 'started') = (sid IS NOT NULL)", name="sid_when_started"),
        Index(
            "uq_call_tenant_id_idempotency_key",
            "tenant_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index("ix_call_tenant_id_id", "tenant_id", "id"),
        # A pending call has no status. An index entry for it would only be replaced by its outcome.
        Index("ix_call_tenant_id_status_id_known", "tenant_id", "status", "id", postgresql_where=text("status IS NOT NULL")),
        Index("ix_call_tenant_id_to_id", "tenant_id", "to", "id"),
        Index("ix_call_tenant_id_from_id", "tenant_id", "from", "id"),
        Index(
            "ix_call_tenant_id_parent_call_sid_id",
            "tenant_id",
            "parent_call_sid",
            "id",
            postgresql_where=text("parent_call_sid IS NOT NULL"),
        ),
        Index("ix_call_pending_since", "pending_since", postgresql_where=text("execution = 'pending'")),
        Index("ix_call_unknown_since", "pending_since", postgresql_where=text("execution = 'unknown'")),
        Index(
            "ix_call_tenant_id_execution_id",
            "tenant_id",
            "execution",
            "id",
            postgresql_where=text("execution <> 'started'"),
        ),
        Index(
            "ix_call_account_sid_address_key_pending_since",
            "account_sid",
            "address_key",
            "pending_since",
            postgresql_where=MAY_HAVE_STARTED_SQL,
        ),
        Index("ix_call_account_sid_address_key_undialled", "account_sid", "address_key", postgresql_where=NEVER_DIALLED_SQL),
        Index("ix_call_search_at", "search_at", postgresql_where=text("search_at IS NOT NULL")),
        Index("ix_call_refresh_at", "refresh_at", postgresql_where=text("refresh_at IS NOT NULL")),
        Index("ix_call_queue_id_id", "queue_id", "id", postgresql_where=text("queue_id IS NOT NULL")),
        Index("uq_call_redial_of", "redial_of", unique=True, postgresql_where=text("redial_of IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"))
    account_id: Mapped[UUID] = mapped_column(ForeignKey("twilio_account.id"))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())

    # The outcome of the creation.
    execution: Mapped[str] = mapped_column(Text)
    settled_by: Mapped[str | None] = mapped_column(Text)
    settled_at: Mapped[datetime | None]
    # The number of the current dial. A retry with the same idempotency key, or another grant for a scheduled call, increments
    # it. The outcome of an earlier attempt is not written.
    attempt: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    pending_since: Mapped[datetime]
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSONB)

    # The request without secrets.
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSONB)
    warnings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'"))
    to: Mapped[str] = mapped_column(Text)
    from_: Mapped[str] = mapped_column("from", Text)
    # `to` in its normal form (app.twilio.addresses); null in rows that an older version wrote.
    address_key: Mapped[str | None] = mapped_column(Text)

    # Scheduled calls only.
    queue_id: Mapped[UUID | None] = mapped_column(Uuid)
    # The id of the call that this call redials; null for a call that a client requested.
    redial_of: Mapped[UUID | None] = mapped_column(Uuid)

    # The members of Twilio's call resource, as last received. They are null until the call is started, and most of them until
    # Twilio has a value.
    sid: Mapped[str | None] = mapped_column(Text, unique=True)
    account_sid: Mapped[str] = mapped_column(Text)
    status: Mapped[str | None] = mapped_column(Text)
    direction: Mapped[str | None] = mapped_column(Text)
    to_formatted: Mapped[str | None] = mapped_column(Text)
    from_formatted: Mapped[str | None] = mapped_column(Text)
    date_created: Mapped[datetime | None]
    date_updated: Mapped[datetime | None]
    start_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]
    duration: Mapped[int | None] = mapped_column(Integer)
    # No fixed scale: Twilio's own digits are kept ("-0.03000"). asyncpg gives Decimal, never float.
    price: Mapped[Decimal | None] = mapped_column(Numeric)
    price_unit: Mapped[str | None] = mapped_column(Text)
    answered_by: Mapped[str | None] = mapped_column(Text)
    api_version: Mapped[str | None] = mapped_column(Text)
    caller_name: Mapped[str | None] = mapped_column(Text)
    forwarded_from: Mapped[str | None] = mapped_column(Text)
    group_sid: Mapped[str | None] = mapped_column(Text)
    parent_call_sid: Mapped[str | None] = mapped_column(Text)
    phone_number_sid: Mapped[str | None] = mapped_column(Text)
    queue_time: Mapped[int | None] = mapped_column(Integer)
    trunk_sid: Mapped[str | None] = mapped_column(Text)
    # Null if Twilio's URIs have the usual form, which follows from account_sid and sid (app.calls.last_answer).
    own_uri: Mapped[str | None] = mapped_column("uri", Text)
    own_subresource_uris: Mapped[dict[str, Any] | None] = mapped_column("subresource_uris", JSONB(none_as_null=True))
    # Twilio's last answer, without the members whose values other columns hold. Each bit of `resource_left_out` stands for one
    # of these members (app.calls.left_out).
    stored_resource_members: Mapped[dict[str, Any] | None] = mapped_column("resource", JSONB(none_as_null=True))
    resource_left_out: Mapped[int | None] = mapped_column(Integer)

    # When the worker refreshes the record next; null: never. Changing it also ends the worker's lease.
    refresh_at: Mapped[datetime | None]
    # When the worker searches Twilio's list next, while it is unknown whether the call exists; null: never.
    search_at: Mapped[datetime | None]
    # How many searches found no call that this creation could have started.
    clean_searches: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # When the call was deleted at Twilio; Twilio's own paths no longer show it.
    deleted_at: Mapped[datetime | None]

    # W3C trace context of the creating request, to which later spans are linked; null if it was not traced.
    traceparent: Mapped[str | None] = mapped_column(Text)

    # The highest sequence number of the callbacks that were applied, and hashes of them, which detect repeated callbacks.
    callback_sequence: Mapped[int | None] = mapped_column(Integer)
    callbacks_seen: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    # The tenant's URL and the events that Callgate delivers to it; null: no deliveries, or Twilio sends them itself.
    status_callback: Mapped[str | None] = mapped_column(Text)
    status_callback_method: Mapped[str | None] = mapped_column(Text)
    status_callback_events: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    # The events for which a delivery was written. Each event gets at most one, however often it is reported.
    deliveries_written: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))


class PendingUpdate(Base):
    """A request to end a call, stored until Callgate can send it to Twilio.

    Such requests are rare, so they have a table of their own instead of columns in `call`.
    """

    # The table has the older name `wanted_update`.

    __tablename__ = "wanted_update"
    __table_args__ = (CheckConstraint("status IN ('canceled', 'completed')", name="status"),)

    call_id: Mapped[UUID] = mapped_column(ForeignKey("call.id", ondelete="CASCADE"), primary_key=True)
    # The attempt to which the request applies. A later attempt with the same idempotency key is not ended.
    attempt: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(Text)
    wanted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    due_at: Mapped[datetime]


class CallEvent(Base):
    """One event of a call. The table is range-partitioned by `at`, so that old events are deleted by dropping partitions."""

    __tablename__ = "call_event"
    __table_args__ = (
        PrimaryKeyConstraint("call_id", "at", "id"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID] = mapped_column(Uuid)
    call_id: Mapped[UUID] = mapped_column(Uuid)
    at: Mapped[datetime]
    type: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    # Says, with one bit per field, which fields of a callback `data` lacks because the call's record has their values
    # (app.calls.callback_fields).
    data_left_out: Mapped[int | None] = mapped_column(Integer)
