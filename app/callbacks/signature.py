"""Verifies that a request is from Twilio. https://www.twilio.com/docs/usage/security#validating-requests

Twilio signs the URL. The check uses the configured public URL, never the URL that a proxy or a Host header gives.
"""

import re
from collections.abc import Sequence

from app.callbacks.fields import FormFields
from app.twilio.schemas import Credential
from app.twilio.signature import is_valid_signature

# 20 bytes in base64. The last digit encodes only four bits.
_SIGNATURE_PATTERN = re.compile(r"[A-Za-z0-9+/]{26}[AEIMQUYcgkosw048]=")


def has_signature_format(text: str) -> bool:
    """Returns whether `text`, an X-Twilio-Signature header, has the format of a signature: 20 bytes in base64."""
    return _SIGNATURE_PATTERN.fullmatch(text) is not None


def signing_auth_token(url: str, posted: FormFields, signature: str, auth_tokens: Sequence[Credential]) -> Credential | None:
    """Returns the auth token that signed the request. Returns None if no token did, or if the URL is invalid.

    An account may have several tokens: while a token is rotated, Twilio signs with the old one.
    """
    try:
        return next(
            (token for token in auth_tokens if is_valid_signature(token.password.get_secret_value(), url, posted, signature)),
            None,
        )
    except ValueError:
        return None  # the URL is invalid
