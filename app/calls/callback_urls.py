"""Makes and checks callback URLs, to which Twilio sends the callbacks about one call. Each URL has a tag.

The tag holds the id of the account, and a keyed hash of the ids of the call and the account. The tag is checked before anything
is read from Postgres, so a forged request costs no SQL statement. If two tenants share a Twilio account, both know the auth
token that signs callbacks. But a tenant cannot make a tag for a call of the other tenant.
"""

import base64
import re
from dataclasses import dataclass
from uuid import UUID

from app.security.keyring import Keyring

CALLBACK_PATH = "/callbacks/twilio"
TAG_PARAMETER = "tag"
# The tag is in the query and not in the path, so that a version of Callgate that knows no tags accepts the URL, too.
_TAG_IN_QUERY = re.compile(rf"(?:^|&){TAG_PARAMETER}=([^&]*)")
# 32 bytes in URL-safe base64: the account's id and the keyed hash. The two unused bits of the last digit are zero.
_TAG_PATTERN = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_ACCOUNT_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class CallbackUrls:
    """Makes and checks the URLs to which Twilio sends callbacks. `base` is the part of such a URL before the call's id."""

    base: str
    keyring: Keyring

    def callback_url_of_call(self, call_id: UUID, account_id: UUID) -> str:
        proof = self.keyring.compute_mac(call_id.bytes + account_id.bytes)
        tag = base64.urlsafe_b64encode(account_id.bytes + proof).decode().rstrip("=")
        return f"{self.base}/{call_id}?{TAG_PARAMETER}={tag}"

    def account_id_in_valid_tag(self, call_id: UUID, tag: str) -> UUID | None:
        """Returns the account id in the tag of a callback URL. Returns None if the tag is not valid for this call.

        A tag is valid if its keyed hash of the call's id and the account's id was made with a key of the keyring.
        """
        if not _TAG_PATTERN.fullmatch(tag):
            return None
        decoded = base64.urlsafe_b64decode(tag + "=")
        account_id, proof = decoded[:_ACCOUNT_ID_BYTES], decoded[_ACCOUNT_ID_BYTES:]
        return UUID(bytes=account_id) if self.keyring.is_mac_of(proof, call_id.bytes + account_id) else None


def callback_tag_in_query(query: str) -> str | None:
    """Returns the query parameter `tag` of a callback URL, without checking it. Returns None if it is missing."""
    found = _TAG_IN_QUERY.search(query)
    return found and found[1]
