"""The checks of `callgate doctor` that need only the settings, and the type of the results of all checks."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from app.serve_settings import require_serve_settings
from app.settings import Settings, SettingsError

CheckState = Literal["ok", "warning", "wrong", "not checked"]

# Names that public DNS does not resolve: https://www.iana.org/assignments/special-use-domain-names
_INTERNAL_SUFFIXES = ("local", "localhost", "internal", "svc", "test", "invalid", "lan", "home.arpa")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check of `callgate doctor`: `found` says what was found, and `do` says what the operator should do."""

    check: str
    state: CheckState
    found: str
    do: str | None = None


def check_settings(settings: Settings) -> Iterator[CheckResult]:
    try:
        require_serve_settings(settings)
    except SettingsError as error:
        yield CheckResult("settings", "wrong", str(error), "docs/settings.md lists every setting")
    else:
        yield CheckResult("settings", "ok", "are valid")
    if settings.drain_timeout < settings.request_budget:
        yield CheckResult(
            "settings",
            "warning",
            f"CALLGATE_DRAIN_TIMEOUT ({settings.drain_timeout:g} s) is less than CALLGATE_REQUEST_BUDGET "
            f"({settings.request_budget:g} s): a stopping process may leave calls with an unknown outcome",
            "set it a little higher than the budget",
        )
    if settings.log_pii:
        yield CheckResult(
            "settings", "warning", "logs show phone numbers and SIP users", "unset CALLGATE_LOG_PII unless this is intended"
        )
    if not settings.twilio_base_url.startswith("https://"):
        yield CheckResult(
            "settings",
            "warning",
            f"requests go unencrypted to {settings.twilio_base_url}",
            "unset CALLGATE_TWILIO_BASE_URL for the real Twilio",
        )


def check_public_url(url: str | None) -> CheckResult:
    check = "public URL"
    if url is None:
        return CheckResult(
            check, "warning", "not set: Twilio sends no callbacks, and unknown outcomes are resolved only by searches",
            "set CALLGATE_PUBLIC_URL to the address at which Twilio reaches /callbacks/twilio/",
        )  # fmt: skip
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_internal(host):
        return CheckResult(check, "wrong", f"{host} is not an address that Twilio can reach", "use a public host name")
    if parts.scheme != "https":
        return CheckResult(check, "warning", "callbacks are not encrypted, and they contain phone numbers", "use https://")
    if "/callbacks" in parts.path:
        return CheckResult(
            check,
            "wrong",
            f"callbacks would go to {url}/callbacks/twilio/…",
            "remove /callbacks and the rest of the path: Callgate adds it",
        )
    return CheckResult(check, "ok", f"Twilio's callbacks go to {url}/callbacks/twilio/…")


def _is_internal(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(tuple(f".{name}" for name in _INTERNAL_SUFFIXES))
