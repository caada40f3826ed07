"""API keys: their two formats, their default lifetime, and the public part of a key, which identifies it."""

import hashlib
import re
import secrets
from datetime import timedelta
from typing import Final, Literal

ApiKeyFormat = Literal["callgate", "twilio"]

DEFAULT_KEY_LIFETIME: Final[timedelta | None] = None
"""The lifetime of an API key that is created without an expiry. None means that the key never expires.

docs/adding.md lists the texts that repeat this value.
"""
_KEY_START = "cgk"
_PUBLIC_PART_HEX_DIGITS = 12
_TWILIO_FORMAT_KEY_BYTES = 16
_TWILIO_FORMAT_KEY_PATTERN = re.compile(r"[0-9a-f]{32}")


def generate_api_key(key_format: ApiKeyFormat) -> str:
    """Returns a new random key: `cgk_…` or, for "twilio", 32 lower-case hexadecimal digits, like a Twilio auth token."""
    if key_format == "twilio":
        return secrets.token_hex(_TWILIO_FORMAT_KEY_BYTES)
    return f"{_KEY_START}_{secrets.token_hex(_PUBLIC_PART_HEX_DIGITS // 2)}_{secrets.token_urlsafe(32)}"


def api_key_public_part(key: str) -> str:
    """Returns the public part of an API key, such as `cgk_0123456789ab`.

    A key that starts with `cgk_` begins with its public part. The public part of a key of 32 hexadecimal digits is made from a
    hash of the key.
    """
    if _TWILIO_FORMAT_KEY_PATTERN.fullmatch(key):
        return f"{_KEY_START}_{hashlib.sha256(b'callgate key id:' + key.encode()).hexdigest()[:_PUBLIC_PART_HEX_DIGITS]}"
    return "_".join(key.split("_")[:2])
