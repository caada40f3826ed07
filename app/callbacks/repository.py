"""Reads the table of upgrades. Never commits."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.callbacks.models import Upgrade


async def upgraded_at(session: AsyncSession, feature: str) -> datetime | None:
    """Returns when an upgrade brought the feature (`Upgrade.name`); None if this database has always had it."""
    return await session.scalar(select(Upgrade.at).where(Upgrade.name == feature))
