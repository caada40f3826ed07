"""The table of the console's sessions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, Text, Uuid, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class ConsoleSession(Base):
    """The session of a person who is logged in. Only the SHA-256 of the cookie's random value is stored.

    A session that began with an API key has the tenant and the scopes that the key has now. Every other session has the tenant
    and the scopes of its login, in `tenant_id` (null for an operator) and `scopes`. A one-time login link is a row, too. When
    the link is used, the hash of the cookie replaces the hash of the link.
    """

    __tablename__ = "console_session"
    __table_args__ = (
        CheckConstraint("kind IN ('key', 'link', 'oidc')", name="kind"),
        CheckConstraint("(kind = 'key') = (key_id IS NOT NULL AND scopes IS NULL)", name="key"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    kind: Mapped[str] = mapped_column(Text)
    # The public part of the API key, or the name of the person.
    name: Mapped[str] = mapped_column(Text)
    key_id: Mapped[UUID | None] = mapped_column(ForeignKey("api_key.id", ondelete="CASCADE"))
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenant.id", ondelete="CASCADE"))
    scopes: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # The time of the person's last request, accurate to about a minute. An unused link has the value of `expires_at`, which
    # marks it. The idle timeout of sessions then does not apply to it.
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
