"""Checks the settings of this process, and the folders and files that they name, without the database and Twilio."""

from collections.abc import Iterator

from app.doctor.results import CheckResult
from app.serve_settings import require_serve_settings
from app.settings import Settings, SettingsError


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
