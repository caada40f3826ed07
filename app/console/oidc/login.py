"""A login with OpenID Connect: what it keeps until the browser comes back, how it fails, and the provider of the settings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.settings import Settings

if TYPE_CHECKING:
    from app.console.oidc.provider import OidcProvider

CALLBACK_PATH: Final = "/console/oidc/callback"


class ProviderFailed(Exception):
    """The provider did not answer as OpenID Connect asks. The message is a short reason for the log, without any value."""


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A login that has begun. The browser keeps it until it comes back from the provider."""

    state: str
    nonce: str
    verifier: str


def oidc_provider(settings: Settings) -> "OidcProvider | None":
    """Returns the provider of the settings, or None."""
    if settings.console_oidc_issuer is None or settings.console_oidc_client_secret is None:
        return None
    # Its libraries take 0.15 s of CPU to import, and few installations use them.
    from app.console.oidc.provider import OidcProvider

    return OidcProvider(
        issuer=settings.console_oidc_issuer,
        client_id=settings.console_oidc_client_id or "",
        client_secret=settings.console_oidc_client_secret.get_secret_value(),
        redirect_uri=f"{settings.console_url}{CALLBACK_PATH}",
        scope=settings.console_oidc_scope,
    )
