"""Generates callback secrets, and the text that names the row of a stored secret (the associated data of its encryption)."""

import base64
import secrets
from uuid import UUID

# https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
CALLBACK_SECRET_PREFIX = "whsec_"  # noqa: S105 (what the secret begins with)
_CALLBACK_SECRET_BYTES = 32


def generate_callback_secret() -> str:
    return CALLBACK_SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_CALLBACK_SECRET_BYTES)).decode()


def associated_data_of_callback_secret(tenant_id: str) -> str:
    return f"tenant:{tenant_id}:callback_secret"


def associated_data_of_credential(credential_id: UUID) -> str:
    return f"twilio_credential:{credential_id}"


def associated_data_of_sip_username(credential_id: UUID) -> str:
    return f"sip_credential:{credential_id}:username"


def associated_data_of_sip_password(credential_id: UUID) -> str:
    return f"sip_credential:{credential_id}:password"
