"""Replaces phone numbers and SIP users in logs by pseudonyms, which are stable and depend on the secret key."""

from app.observability.context import bind
from app.security.keyring import Keyring

_SIP_SCHEMES = ("sip", "sips")


class Pseudonyms:
    """Replaces addresses by pseudonyms, or returns them unchanged if `shown` is true (CALLGATE_LOG_PII)."""

    def __init__(self, keyring: Keyring, *, shown: bool) -> None:
        self._keyring = keyring
        self._shown = shown

    def add_to_log(self, *, to: str, from_: str) -> None:
        """Adds the pseudonyms of both addresses to every later log line of this request."""
        bind(**{"to": self.of(to), "from": self.of(from_)})

    def of(self, address: str) -> str:
        """Returns the pseudonym of an address.

        Keeps the host of a SIP address, which identifies no person, and drops headers and parameters, which may contain
        anything. A user has the same pseudonym in every SIP address, and where it stands alone.
        """
        if self._shown:
            return address
        scheme, colon, rest = address.partition(":")
        user, at, host = rest.partition("?")[0].rpartition("@")
        if not colon or not at or scheme.lower() not in _SIP_SCHEMES:
            return self._keyring.pseudonym(address)
        return f"{scheme}:{self._keyring.pseudonym(user)}@{host.partition(';')[0]}"
