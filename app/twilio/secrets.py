"""Collects the secrets of a request to Twilio, so that they can be removed from its answer.

Secrets are the credential, secret parameters, and users and passwords in URLs.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from app.security.redaction import Secrets, basic_header_values, redact, userinfo_in
from app.twilio.schemas import CALL_STATUSES, SECRET_PARAMETERS, SID_PATTERN, Credential


def authorization(credential: Credential) -> str:
    """Returns the value of the Authorization header for Basic authentication with this credential."""
    return "Basic " + b64encode(f"{credential.username}:{credential.password.get_secret_value()}".encode()).decode()


def secrets_of(credential: Credential, parameters: Mapping[str, Any]) -> Secrets:
    """Returns the secrets of a request to the Calls resource. The names of `parameters` are in snake_case."""
    found = [
        secret
        for name, value in parameters.items()
        if isinstance(value, str)
        for secret in ((value,) if name in SECRET_PARAMETERS else userinfo_in(value))
    ]
    return Secrets(found, more=_credential_secrets(credential)) if found else _credential_secrets(credential)


def secrets_of_fields(credential: Credential, fields: Iterable[tuple[str, str]]) -> Secrets:
    """Returns the secrets of a request to a subresource: the credential, and users and passwords in the URLs in `fields`."""
    found = [secret for _, value in fields for secret in userinfo_in(value)]
    return Secrets(found, more=_credential_secrets(credential)) if found else _credential_secrets(credential)


def redact_document(document: Any, secrets: Secrets) -> Any:
    """Returns the JSON of an answer without secrets. Keeps SIDs and call statuses, even if one contains a short password."""
    return redact(document, secrets, keep=lambda text: text in CALL_STATUSES or SID_PATTERN.fullmatch(text) is not None)


@lru_cache(maxsize=1024)
def _credential_secrets(credential: Credential) -> Secrets:
    password = credential.password.get_secret_value()
    return Secrets([password, *basic_header_values(credential.username, password)])
