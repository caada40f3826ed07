"""X-Twilio-Signature: https://www.twilio.com/docs/usage/webhooks/webhooks-security."""

import hmac
import re
from base64 import b64encode
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit


def signature(auth_token: str, url: str, fields: Iterable[tuple[str, str]] = ()) -> str:
    """`fields` are those of the form body; of a GET they are in the URL already."""
    signed = signed_url(url) + "".join(name + value for name, value in sorted(set(fields)))
    return b64encode(hmac.digest(auth_token.encode(), signed.encode(), "sha1")).decode()


def signed_url(url: str) -> str:
    """Without fragment and user name; Voice leaves the port out for https and keeps it for http."""
    parts = urlsplit(url)
    netloc = parts.netloc.rpartition("@")[2]
    if parts.scheme == "https":
        netloc = re.sub(r":\d*$", "", netloc)
    return urlunsplit(parts._replace(netloc=netloc, fragment=""))
