"""Commits intents, the first records of calls, for accounts with a pace: limits of the call rate or of concurrent calls.

If the pace does not allow a call now, its intent is not written, and the call is not dialled.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from math import ceil
from uuid import UUID

from app.calls.creation.paced.store import insert_paced_intents, lock_pace_in_session
from app.calls.creation.repository import reopen_call
from app.calls.creation.store import MAX_ROWS_PER_STATEMENT, NewCall
from app.calls.models import Call
from app.database.batcher import LOCKED, Batcher, RowLocked
from app.database.engine import Database, Session, driver_connection
from app.errors import DatabaseUnavailable, PaceExceeded
from app.scheduling.admission import PaceRefusal, admit_reopened_call
from app.scheduling.dial_slots import free_slots_of_ended_calls, lock_pace_and_free_slots

# Retry-After for an account with as many concurrent calls as it may have. It is not known when one of them will end.
_RETRY_AFTER_IF_FULL_S = 5
# The pace of a busy account is often locked, for some milliseconds. With a longer delay, an intent or a release of slots that
# has waited for a while would find it locked again and again, while new intents and the grants of workers get it.
_LOCK_RETRY_MAX_DELAY_S = 0.02


class PacedIntentWriter:
    """Writes intents (the first records of calls) for accounts with a pace, in batches.

    Each intent counts against the account's call rate and takes a dial slot, which stands for one concurrent call.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._intents: Batcher[NewCall, datetime | PaceRefusal | None] = Batcher(
            self._write_intents, max_batch=MAX_ROWS_PER_STATEMENT, lock_retry_max_delay_s=_LOCK_RETRY_MAX_DELAY_S
        )
        self._slot_releases = Batcher(
            self._free_slots_in_batch, max_batch=MAX_ROWS_PER_STATEMENT, lock_retry_max_delay_s=_LOCK_RETRY_MAX_DELAY_S
        )

    async def submit(self, call: NewCall) -> datetime | None:
        """Writes the intent and returns the time of the write. Returns None if another call has its idempotency key.

        Raises PaceExceeded if the pace does not allow the call; then nothing is written. If the account has too many concurrent
        calls, the slots of ended calls are freed, and the intent is tried once more.
        """
        written = await self._intents.submit(call)
        if isinstance(written, PaceRefusal) and written.is_full and await self._free_slots_of_ended_calls(call.account_id):
            written = await self._intents.submit(call)
        if isinstance(written, PaceRefusal):
            raise pace_exceeded_error(written, call)
        return written

    async def _free_slots_of_ended_calls(self, account_id: UUID) -> bool:
        """Frees the dial slots of the account's ended calls. Returns whether a slot was freed.

        A dial slot stands for one concurrent call. Returns False if Postgres is unavailable, or if other sessions keep the
        limits (`pace`) of the account or of a queue locked.
        """
        try:
            return await self._slot_releases.submit(account_id) > 0
        except DatabaseUnavailable:
            # Do not raise the error: for the caller it would mean that the intent may have been committed.
            return False

    async def _write_intents(self, calls: Sequence[NewCall]) -> Sequence[datetime | PaceRefusal | RowLocked | None]:
        written = await insert_paced_intents(self._database, calls)
        return [written.get(call.id) for call in calls]

    async def _free_slots_in_batch(self, account_ids: Sequence[UUID]) -> Sequence[int | RowLocked]:
        """Frees the dial slots of ended calls in these accounts.

        Returns, for each account, the number of freed slots, or LOCKED if another session has locked the account's pace.
        """
        freed = {account_id: await self._free_slots_of_account(account_id) for account_id in dict.fromkeys(account_ids)}
        return [freed[account_id] for account_id in account_ids]

    async def _free_slots_of_account(self, account_id: UUID) -> int | RowLocked:
        """Frees the dial slots of the account's ended calls, and returns the number of freed slots.

        Returns 0 if another session keeps the limits of a queue locked, and LOCKED if it has locked those of the account.
        """
        try:
            freed = await lock_pace_and_free_slots(self._database, account_id)
        except DatabaseUnavailable as error:
            if not error.is_lock_timeout:
                raise
            # Not raised: the Batcher would repeat the batch, and then report 0 for accounts whose slots are freed already.
            return 0
        return LOCKED if freed is None else freed


async def reopen_paced_call(session: Session, call: Call, new_intent: NewCall) -> Call | None:
    """Makes a `not_started` call pending again with the values of `new_intent`, and counts it against the account's limits.

    Returns the updated record, or None if another request has reopened the call already. Raises PaceExceeded if the limits of
    call rate and concurrent calls do not allow the call; then the caller must roll the transaction back.
    """
    await lock_pace_in_session(session, new_intent.account_id)
    connection = await driver_connection(session)
    # This includes the slot of the call's earlier attempt.
    await free_slots_of_ended_calls(connection, new_intent.account_id)
    reopened = await reopen_call(session, call, new_intent)
    if reopened and (refusal := await admit_reopened_call(connection, new_intent.account_id, call.id)):
        raise pace_exceeded_error(refusal, call)
    return reopened


def pace_exceeded_error(refusal: PaceRefusal, call: Call | NewCall) -> PaceExceeded:
    """Returns the error that says which limit refused the call, and when the client may repeat the request."""
    if refusal.is_full:
        return PaceExceeded(
            f"Twilio account {call.account_sid} has as many calls under way as it may have: "
            f"{refusal.max_concurrent}. The next call may be placed when one of them ends.",
            retry_after_s=_RETRY_AFTER_IF_FULL_S,
        )
    wait_s = refusal.wait_s or 0.1
    rate = (refusal.calls_per_second or Decimal(0)).normalize()
    pace = "1 call" if rate == 1 else f"{rate:f} calls"
    return PaceExceeded(
        f"Twilio account {call.account_sid} may place {pace} per second, in bursts of up to {refusal.burst}. "
        f"The next call may be placed in {ceil(wait_s * 10) / 10} s.",
        retry_after_s=ceil(wait_s),
    )
