"""What Twilio is told and must never come back in its words: credentials, secret parameters, users and passwords in URLs."""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from app.security.redaction import Secrets, basic_values, redact, userinfo_in
from app.twilio.schemas import CALL_STATUSES, SECRET_PARAMETERS, SID, Credential


def authorization(access: Credential) -> str:
    return "Basic " + b64encode(f"{access.username}:{access.password.get_secret_value()}".encode()).decode()


def secrets_of(access: Credential, parameters: Mapping[str, Any]) -> Secrets:
    """The secrets of one request about calls; `parameters` by our names."""
    found = [
        secret
        for name, value in parameters.items()
        if isinstance(value, str)
        for secret in ((value,) if name in SECRET_PARAMETERS else userinfo_in(value))
    ]
    return Secrets(found, more=_credential(access)) if found else _credential(access)


def secrets_of_fields(access: Credential, fields: Iterable[tuple[str, str]]) -> Secrets:
    """The secrets of any other request, whose parameters may be anything."""
    found = [secret for _, value in fields for secret in userinfo_in(value)]
    return Secrets(found, more=_credential(access)) if found else _credential(access)


def redact_document(document: Any, secrets: Secrets) -> Any:
    """The JSON of an answer without secrets. SIDs and statuses stay: a short password may look like a part of one."""
    return redact(document, secrets, keep=lambda text: text in CALL_STATUSES or SID.fullmatch(text) is not None)


@lru_cache(maxsize=1024)
def _credential(access: Credential) -> Secrets:
    password = access.password.get_secret_value()
    return Secrets([password, *basic_values(access.username, password)])
