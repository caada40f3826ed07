"""Callbacks whose URL has no tag: of calls that were placed before this database was upgraded to a version that makes tags.

To be deleted, with the table `upgrade`, once no supported upgrade begins at such a version.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.callbacks import repository
from app.calls import ids
from app.calls.repository import accounts_of_calls
from app.database import Database
from app.database.batcher import Batcher

# An upgrade's migration comes first; processes of the version before still place calls for as long as the roll-out takes.
_ROLL_OUT = timedelta(days=1)
# Twilio keeps a call queued for a day at most, and ends it after another; with a day to spare.
_LONGEST_CALL = timedelta(days=3)


class UntaggedCallbacks:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._upgraded_at: datetime | None = None
        self._is_read = False
        self._accounts = Batcher(self._find_accounts)

    async def account_of(self, call_id: UUID) -> UUID | None:
        """The account of a call that may have no tag; None for any other, without asking Postgres for it."""
        upgraded_at = await self._read_upgraded_at()
        if upgraded_at is None or datetime.now(UTC) > upgraded_at + _ROLL_OUT + _LONGEST_CALL:
            return None
        if ids.created_at(call_id) > upgraded_at + _ROLL_OUT:
            return None
        return await self._accounts.submit(call_id)

    async def _read_upgraded_at(self) -> datetime | None:
        if not self._is_read:
            async with self._database.begin() as session:
                self._upgraded_at = await repository.upgraded_at(session, "callback_tags")
            self._is_read = True
        return self._upgraded_at

    async def _find_accounts(self, call_ids: Sequence[UUID]) -> list[UUID | None]:
        async with self._database.begin() as session:
            found = await accounts_of_calls(session, call_ids)
        return [found.get(call_id) for call_id in call_ids]
