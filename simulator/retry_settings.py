"""Timeouts and retries of a callback, from the fragment of its URL: `https://…/status#rc=3&rp=5xx,ct,rt`.

https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import parse_qs


class CallbackFailure(StrEnum):
    """The failures of a callback after which a retry policy (`rp` in the fragment of the URL) can ask for a retry."""

    CONNECT = "ct"
    """The TCP or TLS connection failed, or was not established in time."""
    READ = "rt"
    """The receiver did not answer in time."""
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"
    OTHER = "all"
    """Any other failure, such as a connection that broke after the request was sent.

    Only the policy `all` includes such failures.
    """


@dataclass(frozen=True, slots=True)
class RetrySettings:
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 15.0
    total_timeout_s: float = 15.0
    """The time limit of all attempts together, in seconds."""
    retries: int = 1
    retried_failures: frozenset[CallbackFailure] = frozenset({CallbackFailure.CONNECT})
    """The callback is sent again after one of these failures. By default only if the request did not arrive."""

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, fragment: str) -> "RetrySettings":
        """Returns the settings in the fragment of a callback's URL, such as `rc=3&rp=5xx`.

        A value that is missing, or outside of Twilio's bounds, gets its default.
        """
        overrides = {name: values[0] for name, values in parse_qs(fragment).items()}
        default = cls()
        policy = overrides.get("rp", "").split(",")
        retried = (
            frozenset(CallbackFailure)
            if CallbackFailure.OTHER in policy
            else frozenset(failure for failure in CallbackFailure if failure in policy)
        )
        return cls(
            connect_timeout_s=_parse_override(overrides, "ct", 100, 10_000, default.connect_timeout_s * 1000) / 1000,
            read_timeout_s=_parse_override(overrides, "rt", 100, 15_000, default.read_timeout_s * 1000) / 1000,
            total_timeout_s=_parse_override(overrides, "tt", 100, 15_000, default.total_timeout_s * 1000) / 1000,
            retries=round(_parse_override(overrides, "rc", 0, 5, default.retries)),
            retried_failures=retried or default.retried_failures,
        )


def _parse_override(overrides: dict[str, str], name: str, minimum: int, maximum: int, default: float) -> float:
    text = overrides.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and minimum <= int(text) <= maximum else default
