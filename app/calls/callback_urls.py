"""Makes and checks the URL to which Twilio sends callbacks about a call, with a keyed tag.

The tag names the account and is checked before any read: a forged request costs no SQL statement. A tenant that shares its
Twilio account with another tenant can sign callbacks, but cannot make tags for the other's calls.
"""

import base64
import re
from dataclasses import dataclass
from uuid import UUID

from app.security.keyring import Keyring

CALLBACK_PATH = "/callbacks/twilio"
TAG = "tag"
# In the query, not in the path: a version without tags accepts the URL, too.
_TAG_IN_QUERY = re.compile(rf"(?:^|&){TAG}=([^&]*)")
# 32 bytes in URL-safe base64: the account's id and the keyed tag. The two unused bits of the last digit are zero.
_TAG_FORM = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_ID_LENGTH = 16


@dataclass(frozen=True, slots=True)
class CallbackUrls:
    """Makes callback URLs. `base` is the public address without the call's id."""

    base: str
    keyring: Keyring

    def url_of(self, call_id: UUID, account_id: UUID) -> str:
        proof = self.keyring.tag(call_id.bytes + account_id.bytes)
        tag = base64.urlsafe_b64encode(account_id.bytes + proof).decode().rstrip("=")
        return f"{self.base}/{call_id}?{TAG}={tag}"

    def account_of(self, call_id: UUID, tag: str) -> UUID | None:
        """Returns the account in the tag, or None if the tag was made for another call or with an unknown key."""
        if not _TAG_FORM.fullmatch(tag):
            return None
        decoded = base64.urlsafe_b64decode(tag + "=")
        account_id, proof = decoded[:_ID_LENGTH], decoded[_ID_LENGTH:]
        return UUID(bytes=account_id) if self.keyring.has_tagged(proof, call_id.bytes + account_id) else None


def tag_in(query: str) -> str | None:
    """Returns the unchecked tag in a callback's query, or None without one."""
    found = _TAG_IN_QUERY.search(query)
    return found and found[1]
