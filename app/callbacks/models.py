"""The table of upgrades: when an upgrade brought a feature to this database."""

from datetime import datetime

from sqlalchemy import Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class FeatureUpgrade(Base):
    """The time at which an upgrade added the feature `name`, such as `callback_tags`, to this database.

    A database that always had the feature has no row.
    """

    __tablename__ = "upgrade"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
