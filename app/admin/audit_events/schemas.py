"""Response bodies of the audit log."""

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from app.audit.store import AuditEventRow


class AuditActor(BaseModel):
    kind: str = Field(description="`cli`, `apply`, `key`, `workload`, `link` or `oidc`.")
    name: str | None = Field(description="The user of the operating system, the API key's id, the workload or the person.")


class AuditEventRecord(BaseModel):
    """An event of the audit log: who changed or did what, and when. It has no old or new values."""

    id: UUID
    at: datetime
    actor: AuditActor
    action: str = Field(description="What was done, such as `key.create`; [Administration](/docs/administration) lists all.")
    tenant_id: str | None
    subject: str = Field(description="The id of what was changed.")
    changed: list[str] = Field(description="The names of the members that an update changed.")
    request_id: str | None = Field(description="The request that made the change; null for a command.")

    @classmethod
    def from_row(cls, row: AuditEventRow) -> Self:
        return cls(
            id=row.id,
            at=row.at,
            actor=AuditActor(kind=row.actor_kind, name=row.actor_name),
            action=row.action,
            tenant_id=row.tenant_id,
            subject=row.subject,
            changed=row.changed,
            request_id=row.request_id,
        )


class AuditEventPage(BaseModel):
    audit_events: list[AuditEventRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next, older page, or null on the last one.")
