"""The names that tenants give to their queues and SIP credentials."""

from typing import Final

RESOURCE_NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""The pattern of a name. It allows no character that would need escaping in a URL or a log."""
RESOURCE_NAME_ADVICE: Final = "use letters, digits and '._-', at most 63, a letter or digit first"
