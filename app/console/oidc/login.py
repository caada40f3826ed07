"""The OpenID Connect provider that the settings configure, the error if it fails, and the values that a login stores."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.settings import Settings

if TYPE_CHECKING:
    from app.console.oidc.provider import OidcProvider

OIDC_REDIRECT_PATH: Final = "/console/oidc/callback"


class ProviderFailed(Exception):
    """The OpenID Connect provider did not answer, or its answer is invalid.

    The message is a short reason for the log, without secrets.
    """


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """The random values of a login that has begun. A cookie stores them until the provider sends the browser back.

    `verifier` is the code verifier of PKCE (RFC 7636).
    """

    state: str
    nonce: str
    verifier: str


def oidc_provider(settings: Settings) -> "OidcProvider | None":
    """Returns the provider that the settings configure; None if they have no issuer or no client secret."""
    if settings.console_oidc_issuer is None or settings.console_oidc_client_secret is None:
        return None
    # Imported only here: the libraries take 0.15 s of CPU to import, and few installations use them.
    from app.console.oidc.provider import OidcProvider

    return OidcProvider(
        issuer=settings.console_oidc_issuer,
        client_id=settings.console_oidc_client_id or "",
        client_secret=settings.console_oidc_client_secret.get_secret_value(),
        redirect_uri=f"{settings.console_url}{OIDC_REDIRECT_PATH}",
        scope=settings.console_oidc_scope,
    )
