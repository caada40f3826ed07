"""The database tables and the JSON bodies of the services async_httpx and sync_sdk.

An idempotency key names at most one call of an account.
"""

import hashlib
import os
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, ForeignKey, UniqueConstraint, create_engine, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

POOL_SIZE = 20
UPSTREAM_CONNECTIONS = 200


def database_url(driver: str) -> str:
    return os.environ["BENCH_DATABASE_URL"].replace("postgresql:", f"postgresql+{driver}:")


def upstream_url() -> str:
    return os.environ["BENCH_UPSTREAM_URL"]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    key_hash: Mapped[bytes] = mapped_column(unique=True)
    sid: Mapped[str]
    auth_token: Mapped[str]


class Call(Base):
    __tablename__ = "call"
    __table_args__ = (UniqueConstraint("account_id", "idempotency_key"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    idempotency_key: Mapped[str]
    request: Mapped[dict[str, Any]] = mapped_column(JSONB)
    execution: Mapped[str] = mapped_column(default="pending")
    sid: Mapped[str | None] = mapped_column(unique=True)
    status: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now())


class NewCall(BaseModel):
    to: str
    from_: str = Field(alias="from")
    url: str
    timeout: int = Field(60, ge=1, le=600)


class CallRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    execution: str
    sid: str | None
    status: str | None
    request: dict[str, Any]


def hash_of(authorization: str) -> bytes:
    """Returns the SHA-256 of the API key in an Authorization header. The database contains this hash in place of the key."""
    return hashlib.sha256(authorization.removeprefix("Bearer ").encode()).digest()


def create_tables_and_accounts(url: str, accounts: dict[str, tuple[str, str]]) -> None:
    """Creates the tables, and inserts the accounts. `accounts` maps each API key to an account's SID and auth token."""
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Account(key_hash=hash_of(key), sid=sid, auth_token=token) for key, (sid, token) in accounts.items())
    engine.dispose()
