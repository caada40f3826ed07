"""The database tables and the JSON bodies of the service `bench.competitors.life`."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, ForeignKey, Index, UniqueConstraint, create_engine, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import Text

from bench.competitors.tables import hash_of

_Time = DateTime(timezone=True)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    sid: Mapped[str]
    auth_token: Mapped[str]
    callback_secret: Mapped[str]


class Call(Base):
    __tablename__ = "call"
    __table_args__ = (
        UniqueConstraint("account_id", "idempotency_key"),
        Index("ix_call_poll_at", "poll_at", postgresql_where=text("poll_at IS NOT NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    idempotency_key: Mapped[str]
    request: Mapped[dict[str, Any]] = mapped_column(JSONB)
    status_callback: Mapped[str | None]
    status_callback_event: Mapped[list[str]] = mapped_column(ARRAY(Text))
    execution: Mapped[str] = mapped_column(default="pending")
    sid: Mapped[str | None] = mapped_column(unique=True)
    status: Mapped[str | None]
    sequence: Mapped[int] = mapped_column(default=-1)
    duration: Mapped[int | None]
    price: Mapped[Decimal | None]
    poll_at: Mapped[datetime | None] = mapped_column(_Time)
    created_at: Mapped[datetime] = mapped_column(_Time, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(_Time, server_default=func.now(), onupdate=func.now())


class Event(Base):
    __tablename__ = "event"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    call_id: Mapped[UUID] = mapped_column(ForeignKey("call.id"), index=True)
    at: Mapped[datetime] = mapped_column(_Time, server_default=func.now())
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)


class NewCall(BaseModel):
    to: str
    from_: str = Field(alias="from")
    url: str
    timeout: int = Field(60, ge=1, le=600)
    status_callback: str | None = None
    status_callback_event: list[Literal["initiated", "ringing", "answered", "completed"]] = ["completed"]


class CallRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    execution: str
    sid: str | None
    status: str | None
    price: Decimal | None
    request: dict[str, Any]


def create_tables_and_accounts(url: str, accounts: dict[str, tuple[str, str, str]]) -> None:
    """Creates the tables, and inserts the accounts.

    `accounts` maps each API key to the account's SID, its auth token, and the secret that signs its webhooks.
    """
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(
            Account(key_hash=hash_of(key), sid=sid, auth_token=token, callback_secret=secret)
            for key, (sid, token, secret) in accounts.items()
        )
    engine.dispose()
