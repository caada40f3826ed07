"""Checks whether `callgate serve` can run with the settings. Commands that run no API, such as `migrate`, skip the check."""

from app.setting_values import SETTING_PREFIX
from app.settings import Settings, SettingsError

_OIDC_SETTINGS = ("console_oidc_issuer", "console_oidc_client_id", "console_oidc_client_secret", "console_oidc_access")


def require_serve_settings(settings: Settings) -> None:
    """Raises SettingsError if `callgate serve` cannot run with the settings. The message names every fault.

    CALLGATE_MAX_CONNECTIONS must be more than CALLGATE_MAX_IN_FLIGHT. If one of the settings for the login with OpenID Connect
    is given, all of them and CALLGATE_CONSOLE_URL must be given.
    """
    faults = []
    if settings.max_connections <= settings.max_in_flight:
        faults.append(
            f"{SETTING_PREFIX}MAX_CONNECTIONS is {settings.max_connections} but must be more than "
            f"{SETTING_PREFIX}MAX_IN_FLIGHT ({settings.max_in_flight}), because each creation in flight holds a connection"
        )
    given = [name for name in _OIDC_SETTINGS if getattr(settings, name) is not None]
    if given and (missing := [name for name in (*_OIDC_SETTINGS, "console_url") if getattr(settings, name) is None]):
        listed = ", ".join(SETTING_PREFIX + name.upper() for name in missing)
        faults.append(f"login with OpenID Connect needs {listed}, too")
    if faults:
        raise SettingsError("; ".join(faults))
