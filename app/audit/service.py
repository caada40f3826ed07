"""Reads the audit log. Does not import FastAPI."""

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.audit.store import AuditEventRow, AuditFilter, list_audit_events
from app.database.pool import TransactionRunner

# 8 bytes of microseconds and 16 of the id, in base64url.
AUDIT_CURSOR_PATTERN = re.compile(r"[A-Za-z0-9_-]{32}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class AuditLog:
    database: TransactionRunner

    async def list(self, filters: AuditFilter, *, limit: int) -> tuple[list[AuditEventRow], str | None]:
        """Returns a page of events, newest first, and the cursor of the next page. The cursor is None on the last page."""
        async with self.database.transaction() as connection:
            events = await list_audit_events(connection, filters, limit=limit + 1)
        return events[:limit], _encode_audit_cursor(events[limit - 1]) if len(events) > limit else None


def _encode_audit_cursor(event: AuditEventRow) -> str:
    microseconds = (event.at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(microseconds.to_bytes(8) + event.id.bytes).decode()


def decode_audit_cursor(cursor: str) -> tuple[datetime, UUID] | None:
    """Returns the time and id of the previous page's last event, from the cursor; None if the cursor is malformed."""
    if not AUDIT_CURSOR_PATTERN.fullmatch(cursor):
        return None
    decoded = base64.urlsafe_b64decode(cursor)
    try:
        return _EPOCH + int.from_bytes(decoded[:8]) * _MICROSECOND, UUID(bytes=decoded[8:])
    except OverflowError:
        return None
