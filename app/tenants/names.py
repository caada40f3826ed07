"""Rules for the display names of tenants and keys, and for the names of queues and SIP credentials."""

import re
from typing import Final

from app.tenants.errors import InvalidValue

MAX_DISPLAY_NAME_LENGTH: Final = 200
"""The maximum length of the display name of a tenant or a key, in characters."""
TENANT_NAME_PATTERN: Final = r"[^\x00]*[^\x00\s][^\x00]*"
"""The pattern of a tenant's display name: it has more than white space, and has no NUL, which Postgres cannot store."""
RESOURCE_NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""The pattern of the name of a queue or a SIP credential. It allows no character that needs escaping in a URL or a log."""
RESOURCE_NAME_ADVICE: Final = "use letters, digits and '._-', at most 63, a letter or digit first"


def check_tenant_name(name: str) -> None:
    """Raises InvalidValue for a display name of a tenant that is too long, has only white space, or contains NUL."""
    if len(name) > MAX_DISPLAY_NAME_LENGTH or not re.fullmatch(TENANT_NAME_PATTERN, name):
        message = f"the name of a tenant has 1 to {MAX_DISPLAY_NAME_LENGTH} characters, and not only spaces"
        raise InvalidValue("/name", "invalid_name", message)


def check_key_name(name: str | None) -> None:
    """Raises InvalidValue for a display name of a key that is empty, is too long, or contains NUL. None means no name."""
    if name is not None and (not 1 <= len(name) <= MAX_DISPLAY_NAME_LENGTH or "\0" in name):
        message = f"the name of a key has 1 to {MAX_DISPLAY_NAME_LENGTH} characters, and no NUL"
        raise InvalidValue("/name", "invalid_name", message)
