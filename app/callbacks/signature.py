"""Is this request from Twilio? https://www.twilio.com/docs/usage/security#validating-requests

The algorithm is the maintained library's; the URL is the configured public one, never what a proxy or a Host header says.
"""

from collections.abc import Sequence

from twilio.request_validator import RequestValidator

from app.callbacks.fields import Fields


def is_genuine(url: str, posted: Fields, signature: str, auth_tokens: Sequence[str]) -> bool:
    """Whether any of the tokens signed this. While a token is being rotated, the old one signs on."""
    try:
        return any(RequestValidator(token).validate(url, posted, signature) for token in auth_tokens)
    except (TypeError, ValueError):
        # The library stumbles over what no genuine request holds, such as a bodySHA256 with a form.
        return False
