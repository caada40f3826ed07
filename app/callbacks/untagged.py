"""Accepts callbacks without a tag, the part of a callback URL's query that proves that Callgate made the URL.

Only the callback URLs of calls that were placed before the upgrade to a version with tags may lack a tag. Delete this module
and the table `upgrade` once no supported upgrade starts at a version without tags.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.callbacks import repository
from app.calls import ids
from app.calls.repository import account_ids_by_call_id
from app.database.batcher import Batcher
from app.database.engine import Database
from app.twilio.schemas import MAX_CALL_TIME, MAX_QUEUE_TIME

# The migration runs first. Processes of the old version place calls until the roll-out is complete.
_MAX_UPGRADE_DURATION = timedelta(days=1)
# The last callback of a call arrives within this time. One day is added as a margin.
_MAX_CALL_LIFE = MAX_QUEUE_TIME + MAX_CALL_TIME + timedelta(days=1)


class UntaggedCallAccounts:
    """Finds the accounts of calls that an early version of Callgate placed, whose callback URLs have no tag.

    The tag in the query of a callback URL proves that Callgate made the URL, and names the account (app.calls.callback_urls).
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tagged_since: datetime | None = None
        self._is_read = False
        self._accounts = Batcher(self._find_accounts)

    async def account_of_untagged_call(self, call_id: UUID) -> UUID | None:
        """Returns the account id of a call that is so old that its callback URL may have no tag.

        Returns None for a newer call, without reading it from Postgres, and if there is no call with this id.
        """
        tagged_since = await self._read_start_of_tagging()
        if tagged_since is None or datetime.now(UTC) > tagged_since + _MAX_UPGRADE_DURATION + _MAX_CALL_LIFE:
            return None
        if ids.creation_time_of_id(call_id) > tagged_since + _MAX_UPGRADE_DURATION:
            return None
        return await self._accounts.submit(call_id)

    async def _read_start_of_tagging(self) -> datetime | None:
        """Returns when an upgrade brought tags to this database; None if the database has always had tags.

        Reads the time from Postgres only once.
        """
        if not self._is_read:
            async with self._database.begin() as session:
                self._tagged_since = await repository.read_feature_upgrade_time(session, "callback_tags")
            self._is_read = True
        return self._tagged_since

    async def _find_accounts(self, call_ids: Sequence[UUID]) -> list[UUID | None]:
        async with self._database.begin() as session:
            found = await account_ids_by_call_id(session, call_ids)
        return [found.get(call_id) for call_id in call_ids]
