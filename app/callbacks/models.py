"""The table of what changed with an upgrade."""

from datetime import datetime

from sqlalchemy import DateTime, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Upgrade(Base):
    """When this database was upgraded to a version that does what the name says; no row: it was made by such a version."""

    __tablename__ = "upgrade"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
