"""Collects the secrets of a request to Twilio, and removes them from Twilio's answer.

Secrets are the credential, secret parameters, a stored SIP credential, and users and passwords in URLs.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from app.security.redaction import SecretRedactor, basic_header_values, redact, secrets_in_text
from app.twilio.addresses import address_spellings
from app.twilio.schemas import SECRET_PARAMETERS, SID_PATTERN, Credential

# Members whose values are Twilio's own words, dates, numbers and links: they never repeat a text of the request.
_MEMBERS_WITHOUT_REQUEST_TEXT = frozenset(
    (
        *("api_version", "direction", "status", "answered_by", "uri", "subresource_uris", "source", "track", "channels"),
        *("date_created", "date_updated", "start_time", "end_time", "duration", "queue_time", "price", "price_unit"),
    )
)
_TWILIOS_DOCS_URL = re.compile(r"https://www\.twilio\.com/docs/[\w/-]*", re.ASCII)


def authorization_header(credential: Credential) -> str:
    """Returns the value of the Authorization header for Basic authentication with this credential."""
    return "Basic " + b64encode(f"{credential.username}:{credential.password.get_secret_value()}".encode()).decode()


def secrets_of_call_request(
    credential: Credential, parameters: Mapping[str, Any], secret_names: Collection[str] = SECRET_PARAMETERS
) -> SecretRedactor:
    """Returns the secrets of a request to the Calls resource. The names of `parameters` are in snake_case.

    The secrets are the credential, the value of each parameter in `secret_names`, and users and passwords in the URLs and the
    TwiML of the other parameters.
    """
    found = [
        secret
        for name, value in parameters.items()
        if isinstance(value, str)
        for secret in ((value,) if name in secret_names else secrets_in_text(value))
    ]
    return SecretRedactor(found, more=_credential_secrets(credential)) if found else _credential_secrets(credential)


def secrets_of_fields(credential: Credential, fields: Iterable[tuple[str, str]]) -> SecretRedactor:
    """Returns the secrets of a request to a subresource: the credential, and users and passwords in the URLs in `fields`."""
    found = [secret for _, value in fields for secret in secrets_in_text(value)]
    return SecretRedactor(found, more=_credential_secrets(credential)) if found else _credential_secrets(credential)


def redact_document(document: Any, secrets: SecretRedactor, addresses: Iterable[str] = ()) -> Any:
    """Returns `document`, the JSON of an answer or one text of it, with `***` in place of each secret.

    Does not change texts that can contain a short secret only by chance: names of members, Twilio's own values, SIDs, links to
    Twilio's documentation, and texts that are equal to one of `addresses` (the call's `to` and `from`), in any form in which
    Twilio may write it.
    """
    shown_addresses = {spelling for address in addresses for spelling in address_spellings(address)}

    def is_kept(member: str, value: Any) -> bool:
        if member in _MEMBERS_WITHOUT_REQUEST_TEXT:
            return True
        return isinstance(value, str) and (
            value in shown_addresses
            or SID_PATTERN.fullmatch(value) is not None
            or _TWILIOS_DOCS_URL.fullmatch(value) is not None
        )

    return redact(document, secrets, keep=is_kept)


@lru_cache(maxsize=1024)
def _credential_secrets(credential: Credential) -> SecretRedactor:
    password = credential.password.get_secret_value()
    return SecretRedactor([password, *basic_header_values(credential.username, password)])
