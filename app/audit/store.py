"""SQL of the audit log. Uses asyncpg without SQLAlchemy. The functions never commit."""
# ruff: noqa: S608  # Statements are put together from this module's own constants.

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from app.audit.events import UNNAMED_ACTOR, Actor, AuditAction
from app.database.connection import Connection


@dataclass(frozen=True, slots=True)
class AuditEventRow:
    id: UUID
    at: datetime
    actor_kind: str
    actor_name: str | None
    action: str
    tenant_id: str | None
    subject: str
    changed: list[str]
    request_id: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filters of a list of events. A filter that is None is not applied.

    If `actor_name` is UNNAMED_ACTOR, only events whose actors have no name are listed. `since` is inclusive, and `until` is
    exclusive. `before` is the time and id of an event: only events older than that event are listed.
    """

    tenant_id: str | None = None
    actor_name: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: tuple[datetime, UUID] | None = None


_COLUMNS = "id, at, actor_kind, actor_name, action, tenant_id, subject, changed, request_id"


async def record_audit_event(
    connection: Connection,
    actor: Actor,
    *,
    action: AuditAction,
    tenant_id: str | None,
    subject: str,
    changed: Sequence[str] = (),
) -> None:
    """Records an action, such as a change of a tenant.

    If the action changes data, call this function in the same transaction, so that both are committed or neither is. `subject`
    is the id or name of what the action is about. `changed` has the names of the members that an update changed, never their
    values.
    """
    statement = f"INSERT INTO audit_event ({_COLUMNS}) VALUES ($1, now(), $2, $3, $4, $5, $6, $7, $8)"
    await connection.execute(
        statement, uuid7(), actor.kind, actor.name, action, tenant_id, subject, list(changed), actor.request_id
    )


async def list_audit_events(connection: Connection, filters: AuditFilter, *, limit: int) -> list[AuditEventRow]:
    """Returns at most `limit` events that match all filters, newest first."""
    at, event_id = filters.before or (None, None)
    conditions = {
        "tenant_id = {}": filters.tenant_id,
        f"coalesce(actor_name, '{UNNAMED_ACTOR}') = {{}}": filters.actor_name,
        "action = {}": filters.action,
        "at >= {}": filters.since,
        "at < {}": filters.until,
        "at <= {}": at,
    }
    values: list[object] = [limit]
    where = ["true"]
    for condition, value in conditions.items():
        if value is not None:
            values.append(value)
            where.append(condition.format(f"${len(values)}"))
    if event_id is not None:  # in addition to "at <= …", with which Postgres skips partitions
        values.append(event_id)
        where.append(f"(at, id) < (${len(values) - 1}, ${len(values)})")
    statement = f"SELECT {_COLUMNS} FROM audit_event WHERE {' AND '.join(where)} ORDER BY at DESC, id DESC LIMIT $1"
    return [AuditEventRow(*row) for row in await connection.fetch(statement, *values)]
