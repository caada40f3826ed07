"""Ids that carry their time: UUIDv7 (RFC 9562 §5.7) begins with the Unix time in milliseconds."""

import base64
import re
from datetime import UTC, datetime
from uuid import UUID

# 16 bytes in base64url: the last of the 22 characters holds two bits.
CURSOR = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
_RANDOM_BITS = 80
# datetime's maximum, which is less than UUIDv7's.
_MAX_DATETIME_MS = 253_402_300_799_999


def created_at(call_id: UUID) -> datetime:
    """Returns when the id was made, to the millisecond."""
    return datetime.fromtimestamp(min(call_id.int >> _RANDOM_BITS, _MAX_DATETIME_MS) / 1000, UTC)


def first_id_at(moment: datetime) -> UUID:
    """Returns the lowest id that a call made at `moment` can have. Clamps moments outside UUIDv7's range."""
    milliseconds = -int(-moment.timestamp() * 1000 // 1)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << _RANDOM_BITS)


def cursor_of(call_id: UUID) -> str:
    return base64.urlsafe_b64encode(call_id.bytes).decode().rstrip("=")


def read_cursor(cursor: str) -> UUID | None:
    """Returns the id in the cursor, or None if the cursor is malformed."""
    return UUID(bytes=base64.urlsafe_b64decode(cursor + "==")) if CURSOR.fullmatch(cursor) else None
