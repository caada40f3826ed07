"""Converts between call ids, times and list cursors. Ids are UUIDv7 (RFC 9562 §5.7): they begin with the Unix time in ms."""

import base64
import re
from datetime import UTC, datetime
from uuid import UUID

# 16 bytes in base64url: the last of the 22 characters holds two bits.
CURSOR_PATTERN = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
_RANDOM_BITS = 80
# The latest time that a `datetime` can hold. A UUIDv7 can hold later ones.
_MAX_DATETIME_MS = 253_402_300_799_999


def creation_time_of_id(call_id: UUID) -> datetime:
    """Returns the creation time in a UUIDv7, to the millisecond."""
    return datetime.fromtimestamp(min(call_id.int >> _RANDOM_BITS, _MAX_DATETIME_MS) / 1000, UTC)


def lowest_call_id_at(moment: datetime) -> UUID:
    """Returns the lowest id that a call can have whose `created_at` is `moment` or later.

    A time outside the range of UUIDv7 counts as the nearest time within it.
    """
    milliseconds = -int(-moment.timestamp() * 1000 // 1)
    return UUID(int=min(max(milliseconds, 0), 2**48 - 1) << _RANDOM_BITS)


def encode_call_cursor(call_id: UUID) -> str:
    """Returns the page cursor for an id: its 16 bytes in URL-safe base64, without padding."""
    return base64.urlsafe_b64encode(call_id.bytes).decode().rstrip("=")


def decode_call_cursor(cursor: str) -> UUID | None:
    """Returns the id in the cursor, or None if the cursor is malformed."""
    return UUID(bytes=base64.urlsafe_b64decode(cursor + "==")) if CURSOR_PATTERN.fullmatch(cursor) else None
