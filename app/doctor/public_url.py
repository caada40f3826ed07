"""Checks whether Twilio can reach CALLGATE_PUBLIC_URL, as far as the URL itself shows that."""

import ipaddress
from urllib.parse import urlsplit

from app.doctor.results import CheckResult

# Names that public DNS does not resolve: https://www.iana.org/assignments/special-use-domain-names
_INTERNAL_SUFFIXES = ("local", "localhost", "internal", "svc", "test", "invalid", "lan", "home.arpa")


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
