"""The table of audit events."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, PrimaryKeyConstraint, Text, Uuid, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class AuditEvent(Base):
    """One recorded action, such as a change of a tenant. The table is partitioned by ranges of the time `at`."""

    __tablename__ = "audit_event"
    __table_args__ = (
        PrimaryKeyConstraint("at", "id"),
        Index(None, "tenant_id", "at", "id"),
        {"postgresql_partition_by": "RANGE (at)"},
    )

    id: Mapped[UUID] = mapped_column(Uuid)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor_kind: Mapped[str] = mapped_column(Text)
    actor_name: Mapped[str | None] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    # No foreign key: the event is kept even if its tenant is deleted. Null: the action is not about a single tenant.
    tenant_id: Mapped[str | None] = mapped_column(Text)
    # The id or name of what the action is about.
    subject: Mapped[str] = mapped_column(Text)
    # The names of the members that an update changed.
    changed: Mapped[list[str]] = mapped_column(ARRAY(Text))
    request_id: Mapped[str | None] = mapped_column(Text)
