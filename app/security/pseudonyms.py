"""Replaces phone numbers and SIP users in logs by pseudonyms. A pseudonym changes only when CALLGATE_SECRET_KEYS changes."""

from app.observability.context import bind_log_fields
from app.security.keyring import Keyring

_SIP_SCHEMES = ("sip", "sips")


class Pseudonymizer:
    """Replaces phone numbers and SIP addresses by pseudonyms. With `log_pii` (CALLGATE_LOG_PII), returns them unchanged."""

    def __init__(self, keyring: Keyring, *, log_pii: bool) -> None:
        self._keyring = keyring
        self._log_pii = log_pii

    def add_addresses_to_log(self, *, to: str, from_: str) -> None:
        """Adds the called and the calling address, as `pseudonym_of` returns them, to every later log line of this request."""
        bind_log_fields(**{"to": self.pseudonym_of(to), "from": self.pseudonym_of(from_)})

    def pseudonym_of(self, address: str) -> str:
        """Returns the pseudonym of a phone number or SIP address; the address itself with `log_pii`.

        For a SIP address, only the user is replaced: the host stays, because it identifies no person. Headers and parameters
        are removed, because they may contain anything. A phone number has the same pseudonym alone and as the user of any SIP
        address.
        """
        if self._log_pii:
            return address
        scheme, colon, rest = address.partition(":")
        user, at, host = rest.partition("?")[0].rpartition("@")
        if not colon or not at or scheme.lower() not in _SIP_SCHEMES:
            return self._keyring.pseudonym(address)
        return f"{scheme}:{self._keyring.pseudonym(user)}@{host.partition(';')[0]}"
