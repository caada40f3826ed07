"""Phone numbers and SIP users as logs may show them: by a token that is the same each time, and that only we can make."""

from app.observability.context import bind
from app.security.keyring import Keyring

_SIP_SCHEMES = ("sip", "sips")


class Pseudonyms:
    """`shown`: as they are, because the operator said so (CALLGATE_LOG_PII)."""

    def __init__(self, keyring: Keyring, *, shown: bool) -> None:
        self._keyring = keyring
        self._shown = shown

    def log(self, *, to: str, from_: str) -> None:
        """Onto every line that this request logs from now on."""
        bind(**{"to": self.of(to), "from": self.of(from_)})

    def of(self, address: str) -> str:
        """The host of a SIP address says where a call goes and not to whom: it stays. Headers and parameters may hold anything.

        `kate` has one token, as a caller and as the user of any SIP address.
        """
        if self._shown:
            return address
        scheme, colon, rest = address.partition(":")
        user, at, host = rest.partition("?")[0].rpartition("@")
        if not colon or not at or scheme.lower() not in _SIP_SCHEMES:
            return self._keyring.token(address)
        return f"{scheme}:{self._keyring.token(user)}@{host.partition(';')[0]}"
