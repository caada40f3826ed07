"""The statement on upgrades. Never commits."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.callbacks.models import Upgrade


async def upgraded_at(session: AsyncSession, name: str) -> datetime | None:
    """None when this database has always had what is called so."""
    return await session.scalar(select(Upgrade.at).where(Upgrade.name == name))
