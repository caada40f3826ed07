"""The table of upgrades, which has the times at which upgrades added features to this database."""

from datetime import datetime

from sqlalchemy import Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base


class FeatureUpgrade(Base):
    """The time at which an upgrade added the feature `name`, such as `callback_tags`, to this database.

    There is no row for a feature that the database has had from the beginning.
    """

    __tablename__ = "upgrade"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
