"""Is this request from Twilio? https://www.twilio.com/docs/usage/security#validating-requests

The algorithm is the maintained library's; the URL is the configured public one, never what a proxy or a Host header says.
"""

import re
from collections.abc import Sequence

from twilio.request_validator import RequestValidator

from app.callbacks.fields import Fields

# 20 bytes in base64: the last digit before the padding has two bits to spare.
_FORM = re.compile(r"[A-Za-z0-9+/]{26}[AEIMQUYcgkosw048]=")


def is_signature(text: str) -> bool:
    """Whether Twilio could have written this header."""
    return _FORM.fullmatch(text) is not None


def is_genuine(url: str, posted: Fields, signature: str, auth_tokens: Sequence[str]) -> bool:
    """Whether any of the tokens signed this. While a token is being rotated, the old one signs on."""
    try:
        return any(RequestValidator(token).validate(url, posted, signature) for token in auth_tokens)
    except (TypeError, ValueError):
        # The library stumbles over what no genuine request holds, such as a bodySHA256 with a form.
        return False
