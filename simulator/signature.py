"""Computes the header X-Twilio-Signature: https://www.twilio.com/docs/usage/webhooks/webhooks-security."""

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit, urlunsplit


def signature(auth_token: str, url: str, fields: Iterable[tuple[str, str]] = ()) -> str:
    """Returns the value of the header X-Twilio-Signature (HMAC-SHA1 in base64).

    `fields` are the fields of a POST's form. A GET has none, because its fields are in the URL.
    """
    signed = url_to_sign(url) + "".join(name + value for name, value in sorted(set(fields)))
    return b64encode(hmac.digest(auth_token.encode(), signed.encode(), "sha1")).decode()


@lru_cache(maxsize=4096)
def url_to_sign(url: str) -> str:
    """Returns the URL as Twilio Voice signs it: without fragment and user info, and without the port if the scheme is https."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    if parts.scheme == "https":
        netloc = re.sub(r":\d*$", "", netloc)
    return urlunsplit(parts._replace(netloc=netloc, fragment=""))
