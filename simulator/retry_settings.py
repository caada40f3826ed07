"""How hard a callback is tried, as the fragment of its URL says: `https://…/status#rc=3&rp=5xx,ct,rt`.

https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
"""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qs, urlsplit


class Failure(StrEnum):
    """What a retry policy can name."""

    CONNECT = "ct"
    """No TCP or TLS connection, in time or at all."""
    READ = "rt"
    """No answer in time."""
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"
    OTHER = "all"
    """Such as a connection that broke after the request was sent: only the policy `all` includes it."""


@dataclass(frozen=True, slots=True)
class RetrySettings:
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 15.0
    total_timeout_s: float = 15.0
    """Over all attempts."""
    retries: int = 1
    retried: frozenset[Failure] = frozenset({Failure.CONNECT})
    """By default only what never reached anybody."""

    @classmethod
    def of(cls, url: str) -> "RetrySettings":
        """What the fragment does not say, or says outside of Twilio's bounds, is as by default."""
        said = {name: values[0] for name, values in parse_qs(urlsplit(url).fragment).items()}
        default = cls()
        policy = said.get("rp", "").split(",")
        retried = (
            frozenset(Failure) if Failure.OTHER in policy else frozenset(failure for failure in Failure if failure in policy)
        )
        return cls(
            connect_timeout_s=_number(said, "ct", 100, 10_000, default.connect_timeout_s * 1000) / 1000,
            read_timeout_s=_number(said, "rt", 100, 15_000, default.read_timeout_s * 1000) / 1000,
            total_timeout_s=_number(said, "tt", 100, 15_000, default.total_timeout_s * 1000) / 1000,
            retries=round(_number(said, "rc", 0, 5, default.retries)),
            retried=retried or default.retried,
        )


def _number(said: dict[str, str], name: str, least: int, most: int, default: float) -> float:
    text = said.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and least <= int(text) <= most else default
