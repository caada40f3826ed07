"""What `callgate doctor` finds out from the settings alone."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from app.settings import Settings

State = Literal["ok", "warning", "wrong", "not checked"]

# Names that no resolver outside knows: https://www.iana.org/assignments/special-use-domain-names
_INNER_NAMES = ("local", "localhost", "internal", "svc", "test", "invalid", "lan", "home.arpa")


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    state: State
    found: str
    do: str | None = None


def check_settings(settings: Settings) -> Iterator[Finding]:
    yield Finding("settings", "ok", "can be read")
    if settings.drain_timeout < settings.request_budget:
        yield Finding(
            "settings",
            "warning",
            f"CALLGATE_DRAIN_TIMEOUT ({settings.drain_timeout:g} s) is less than CALLGATE_REQUEST_BUDGET "
            f"({settings.request_budget:g} s): a process that ends may leave calls of unknown outcome",
            "make it a little more than the budget",
        )
    if settings.log_pii:
        yield Finding(
            "settings", "warning", "logs show phone numbers and SIP users", "unset CALLGATE_LOG_PII unless you mean it"
        )
    if not settings.twilio_base_url.startswith("https://"):
        yield Finding(
            "settings",
            "warning",
            f"calls go to {settings.twilio_base_url}, in clear",
            "unset CALLGATE_TWILIO_BASE_URL for the real Twilio",
        )


def check_public_url(url: str | None) -> Finding:
    check = "public URL"
    if url is None:
        return Finding(
            check, "warning", "not set: Twilio cannot tell how calls go on, and unknown outcomes wait for searches",
            "set CALLGATE_PUBLIC_URL to the address at which Twilio reaches /callbacks/twilio/",
        )  # fmt: skip
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_inner(host):
        return Finding(check, "wrong", f"{host} is not an address that Twilio can reach", "give it a public host name")
    if parts.scheme != "https":
        return Finding(check, "warning", "callbacks come in clear, phone numbers and all", "use https://")
    if "/callbacks" in parts.path:
        return Finding(
            check,
            "wrong",
            f"callbacks would go to {url}/callbacks/twilio/…",
            "end the URL before /callbacks, which is added to it",
        )
    return Finding(check, "ok", f"Twilio's callbacks go to {url}/callbacks/twilio/…")


def _is_inner(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(tuple(f".{name}" for name in _INNER_NAMES))
