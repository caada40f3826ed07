"""Reads the table that says when an upgrade added a feature to this database. Never commits."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.callbacks.models import FeatureUpgrade


async def read_feature_upgrade_time(session: AsyncSession, feature: str) -> datetime | None:
    """Returns when an upgrade added `feature` (a `FeatureUpgrade.name`) to this database; None if it has always had it."""
    return await session.scalar(select(FeatureUpgrade.at).where(FeatureUpgrade.name == feature))
