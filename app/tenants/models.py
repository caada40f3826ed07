"""Tables of tenants, Twilio accounts, credentials, API keys, SIP credentials and workloads. Secrets are encrypted or hashed."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, LargeBinary, Text, UniqueConstraint, Uuid, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base
from app.tenants.stored_secrets import (
    associated_data_of_callback_secret,
    associated_data_of_credential,
    associated_data_of_sip_password,
    associated_data_of_sip_username,
)

# Triggers notify this channel of every change of a value that processes cache (migration 0041). No process caches the tables
# `credential_use` and `api_key_use`, and the columns `name` and `hours` of a tenant.
TENANT_CHANGES_CHANNEL = "callgate_tenants"


class Tenant(Base):
    __tablename__ = "tenant"
    __table_args__ = (
        CheckConstraint("callback_format IN ('twilio', 'json')", name="callback_format"),
        CheckConstraint("max_in_flight > 0", name="max_in_flight"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    suspended_at: Mapped[datetime | None]

    # The status callback of calls that are created without one. Method and events require the URL.
    status_callback: Mapped[str | None] = mapped_column(Text)
    status_callback_method: Mapped[str | None] = mapped_column(Text)
    status_callback_events: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    callback_format: Mapped[str] = mapped_column(Text, server_default=text("'twilio'"))
    sealed_callback_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    # How many creations one process may send to Twilio at the same time; null: CALLGATE_MAX_IN_FLIGHT_PER_TENANT.
    max_in_flight: Mapped[int | None] = mapped_column(Integer)
    # When scheduled calls may ring (app.scheduling.hours); null: at any time.
    hours: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    @property
    def callback_secret_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted secret: a text that names row and column. Decryption needs it."""
        return associated_data_of_callback_secret(self.id)


class TwilioAccount(Base):
    __tablename__ = "twilio_account"
    __table_args__ = (UniqueConstraint("tenant_id", "account_sid"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"))
    account_sid: Mapped[str] = mapped_column(Text)
    base_url: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class TwilioCredential(Base):
    """A Twilio credential. `username` is the account's SID for an auth token, and the key's SID (SK…) for an API key."""

    __tablename__ = "twilio_credential"
    __table_args__ = (CheckConstraint("kind IN ('auth_token', 'api_key')", name="kind"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("twilio_account.id"), index=True)
    kind: Mapped[str] = mapped_column(Text)
    username: Mapped[str] = mapped_column(Text)
    sealed_secret: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
    # When Twilio refused the credential, which is then tried last until Twilio accepts it again.
    rejected_at: Mapped[datetime | None]
    rejected_reason: Mapped[str | None] = mapped_column(Text)
    # Callgate tries credentials in the order of this key. Null: the key is the credential's id. A credential that replaces
    # another one got the key of the replaced one at `preferred_at`.
    place: Mapped[UUID | None] = mapped_column(Uuid)
    preferred_at: Mapped[datetime | None]

    @property
    def secret_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted secret: a text that names the row. Decryption needs the same text."""
        return associated_data_of_credential(self.id)


class CredentialLastUse(Base):
    """The last use of a Twilio credential.

    It has a table of its own, because each change of `twilio_credential` empties the caches of all processes.
    """

    __tablename__ = "credential_use"

    credential_id: Mapped[UUID] = mapped_column(ForeignKey("twilio_credential.id", ondelete="CASCADE"), primary_key=True)
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """An API key of a tenant or, without a tenant, of an operator. `prefix` is its public part, which identifies the key."""

    __tablename__ = "api_key"
    __table_args__ = (
        CheckConstraint("scopes <> '{}' AND scopes <@ '{call,read,admin}'", name="scopes"),
        Index(None, "tenant_id", "idempotency_key", unique=True, postgresql_where=text("idempotency_key IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenant.id"), index=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{call,read}'"))
    name: Mapped[str | None] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text, unique=True)
    keyed_hash: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    # The Idempotency-Key of the request that created the API key.
    idempotency_key: Mapped[str | None] = mapped_column(Text)


class ApiKeyLastUse(Base):
    """The last use of an API key.

    It has a table of its own, because each change of `api_key` empties the caches of all processes.
    """

    __tablename__ = "api_key_use"

    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_key.id", ondelete="CASCADE"), primary_key=True)
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SipCredential(Base):
    """User name and password of a SIP endpoint, stored under a name. A request to create a call contains only the name."""

    __tablename__ = "sip_credential"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenant.id"))
    name: Mapped[str] = mapped_column(Text)
    sealed_username: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_password: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def username_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted user name: a text that names row and column. Decryption needs it."""
        return associated_data_of_sip_username(self.id)

    @property
    def password_associated_data(self) -> str:
        """The associated data (AES-GCM) of the encrypted password: a text that names row and column. Decryption needs it."""
        return associated_data_of_sip_password(self.id)


class Workload(Base):
    """A Kubernetes service account that acts for a tenant or, without a tenant, for an operator."""

    __tablename__ = "workload"
    __table_args__ = (
        UniqueConstraint("issuer", "namespace", "service_account"),
        CheckConstraint("scopes <> '{}' AND scopes <@ '{call,read,admin}'", name="scopes"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    issuer: Mapped[str] = mapped_column(Text)
    namespace: Mapped[str] = mapped_column(Text)
    service_account: Mapped[str] = mapped_column(Text)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenant.id"), index=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
