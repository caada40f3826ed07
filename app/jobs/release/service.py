"""Finds out which waiting calls Twilio already has, updates their records, and allows grants again.

A grant is the right to dial a scheduled call. After a restore or a failover, the database may lack recent grants. Their calls
then wait again, although they may have been dialled. Each record is updated in its own transaction, and grants are allowed at
the very end. So the command can be killed at any time and run again.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from app.audit.events import Actor
from app.audit.store import record_audit_event
from app.calls import repository
from app.calls.creation.repository import lock_scheduled_dial
from app.calls.models import Call
from app.calls.settlement import Settlement
from app.database.engine import Database, Session, driver_connection
from app.errors import CommandFailed, CommandUnfinished
from app.jobs.candidates import DATE_TOLERANCE, MAX_CLOCK_SKEW, AccountCallList, CallCandidates, earliest_date_created
from app.jobs.release import store
from app.jobs.release.store import AccountWithDueCalls
from app.jobs.search_result import SearchFinding, evaluate_candidates, inconclusive_reason
from app.scheduling.grant_halts import DialGrantHaltState, read_grant_halt_state, record_server_or_halt_grants, release_grants
from app.tenants.directory import TenantDirectory
from app.twilio.client import TwilioClient
from app.twilio.errors import TwilioError

_NO_SEARCH_RESULT = CallCandidates({}, is_complete=False, twilio_clock_offset=None)

ReleaseResult = Literal["bound", "unknown", "waiting"]


@dataclass(frozen=True, slots=True)
class AccountReleaseCounts:
    """The numbers of an account's waiting calls by result: bound to a call at Twilio, `unknown`, or still waiting.

    If the outcome of a call arrives during the command, for example by a callback, the call counts as bound. A call that is
    canceled or expires during the command counts as waiting.
    """

    account_sid: str
    calls: dict[ReleaseResult, int] = field(default_factory=lambda: {"bound": 0, "unknown": 0, "waiting": 0})


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """The result of `callgate queues release`: since when grants may be missing, and the numbers of calls by account.

    A grant is the right to dial one scheduled call. Grants may be missing after a restore or a failover.
    """

    since: datetime | None
    """The database has all grants from before this time. None if grants were not halted."""
    accounts: list[AccountReleaseCounts]


@dataclass(frozen=True, slots=True)
class _SearchParameters:
    """The parameters of the search, the same for all accounts.

    After a restore or a failover, the database may lack recent grants (rights to dial one scheduled call). The search looks in
    Twilio's call lists for calls that were dialled under these lost grants.
    """

    since: datetime
    """Lost grants were made at this time or later."""
    last_not_before: datetime
    """No worker can have taken a grant for a waiting call whose `not_before` is later than this time."""
    until: datetime
    """Every call whose grant was lost was dialled before this time."""
    postgres_clock_offset: timedelta
    """Postgres's clock minus this machine's clock."""
    is_dry_run: bool

    def max_start_delay_of(self, waiting_call: Call) -> timedelta:
        """Returns the longest time from a lost grant (a worker's right to dial this call) until Twilio created the call.

        `waiting_call.pending_since` is the earliest time at which a worker can have taken a grant that was lost.
        """
        return self.until - waiting_call.pending_since


@dataclass(slots=True)
class _AccountAudit:
    """Records in the audit log, once, that `callgate queues release` has searched or skipped an account.

    The event is written in the transaction of the account's first changed call. If no call is changed, nothing is recorded.
    """

    actor: Actor
    account: AccountWithDueCalls
    is_skipped: bool
    is_recorded: bool = False

    async def record_first_change(self, session: Session) -> None:
        if not self.is_recorded:
            await record_audit_event(
                await driver_connection(session),
                self.actor,
                action="account.skip" if self.is_skipped else "account.search",
                tenant_id=self.account.tenant_id,
                subject=self.account.account_sid,
            )
            self.is_recorded = True


@dataclass(frozen=True, slots=True)
class GrantReleaseCommand:
    """Ends a halt of grants (rights to dial one call), so that workers dial scheduled calls again.

    After Postgres was restored from a backup, the latest grants may be missing, so a call that was dialled may wait again.
    Before the halt ends, this class looks for the waiting calls at Twilio. A call that Twilio may have does not wait any
    longer, so no call is dialled a second time.
    """

    database: Database
    directory: TenantDirectory
    twilio: TwilioClient
    settlement: Settlement
    # The longest time from a grant until Twilio has the call, or nothing is sent for it any more.
    max_start_delay: timedelta
    deadline_s: float
    batch_size: int = 1_000
    """The number of waiting calls that are in memory at a time."""

    async def run(
        self, actor: Actor, *, skipped_account_sids: Collection[str], is_dry_run: bool, on_wait: Callable[[float], None]
    ) -> ReleaseReport:
        """Searches Twilio's lists for calls whose grant (the right to dial) was lost, updates them, and allows grants again.

        Does nothing if grants are not halted. A dry run changes nothing. `skipped_account_sids` are the sids of accounts whose
        list is not searched: all of their waiting calls that are due become `unknown`. Before a wait, calls `on_wait` with the
        number of seconds. Raises CommandUnfinished if Twilio's list cannot be read. Raises CommandFailed if the difference
        between Twilio's and Postgres's clocks is unknown or too large. Raises CommandFailed, too, if another Postgres server
        was promoted, or grants were halted or released, during the run.
        """
        state = await read_grant_halt_state(self.database)
        if state is None or state.may_grant:
            return ReleaseReport(None, [])
        if not is_dry_run:
            state = await self._ensure_halted(state)
        search = await self._plan_search(state, is_dry_run=is_dry_run)
        # Until `search.until`, a process may still dial a call whose grant is lost.
        left_s = (search.until - state.read_at).total_seconds()
        if left_s > 0 and not is_dry_run:
            on_wait(left_s)
            await asyncio.sleep(left_s)
        accounts = [
            await self._check_calls_of_account(
                _AccountAudit(actor, account, account.account_sid in skipped_account_sids), search
            )
            for account in await store.accounts_with_due_calls(self.database, search.last_not_before)
        ]
        if not is_dry_run:
            await self._allow_grants(actor, state)
        return ReleaseReport(state.seen_at, accounts)

    async def _ensure_halted(self, state: DialGrantHaltState) -> DialGrantHaltState:
        """Halts grants (rights to dial) if no worker has halted them yet after the Postgres server changed.

        Returns the new state.
        """
        if state.halted_at is not None:
            return state
        async with self.database.transaction() as connection:
            await record_server_or_halt_grants(connection)
        return await read_grant_halt_state(self.database) or state

    async def _plan_search(self, state: DialGrantHaltState, *, is_dry_run: bool) -> _SearchParameters:
        halted_at = state.halted_at or state.read_at
        # A backup or a standby can have a halt that was released later. Grants from after that halt are lost, and were taken
        # before now: no grant was taken on the present server since its start.
        if state.server != state.current_server or halted_at < state.server_started_at:
            halted_at = state.read_at
        last_not_before = halted_at + MAX_CLOCK_SKEW
        return _SearchParameters(
            since=state.seen_at,
            last_not_before=last_not_before,
            until=halted_at + self.max_start_delay,
            postgres_clock_offset=state.read_at - datetime.now(UTC),
            is_dry_run=is_dry_run,
        )

    async def _allow_grants(self, actor: Actor, state: DialGrantHaltState) -> None:
        """Allows grants (rights to dial) again, and writes an audit event.

        Raises CommandFailed if the Postgres server has changed since `state` was read. Also raises it if the row of
        `grant_guard`, which says whether grants are halted, has changed.
        """
        async with self.database.transaction() as connection:
            if not await release_grants(connection, state):
                raise CommandFailed(
                    "nothing was released: meanwhile another server was promoted, or somebody else halted or released grants: "
                    "run the command again if calls are to be dialled"
                )
            await record_audit_event(connection, actor, action="grants.release", tenant_id=None, subject=state.current_server)

    async def _check_calls_of_account(self, audit: _AccountAudit, search: _SearchParameters) -> AccountReleaseCounts:
        """Finds out, in batches, whether the account's due calls were dialled. Returns the numbers of calls by result.

        Except in a dry run, updates the records of calls that were dialled or may have been dialled. If the account is skipped,
        Twilio's list is not searched, and all of the due calls become `unknown`.
        """
        account = audit.account
        checked = AccountReleaseCounts(account.account_sid)
        since = earliest_date_created(max(account.first_not_before, search.since))
        call_list = AccountCallList(self.directory, self.twilio, account.id, since, search.until, self.deadline_s)
        after = None
        while waiting_calls := await store.waiting_calls_possibly_dialled(
            self.database, account.id, before=search.last_not_before, since=search.since, after=after, limit=self.batch_size
        ):
            for waiting_call in waiting_calls:
                candidates = _NO_SEARCH_RESULT
                if not audit.is_skipped:
                    candidates = await self._find_candidates(call_list, waiting_call, search)
                result = await self._resolve_waiting_call(waiting_call, candidates, search, audit)
                checked.calls[result] += 1
            after = waiting_calls[-1].id
        return checked

    async def _find_candidates(
        self, call_list: AccountCallList, waiting_call: Call, search: _SearchParameters
    ) -> CallCandidates:
        """Returns the calls in Twilio's list that an earlier dial of the waiting call may have started.

        Raises CommandUnfinished if the list cannot be read. Raises CommandFailed if the difference between Twilio's and
        Postgres's clocks is unknown or too large, because the dates in the list then prove nothing.
        """
        sid = waiting_call.account_sid
        try:
            candidates = await call_list.find_candidates(waiting_call, max_start_delay=search.max_start_delay_of(waiting_call))
        except (TwilioError, TimeoutError) as error:
            reason = error.reason if isinstance(error, TwilioError) else "deadline"
            advice = f"run the command again, or give up its due calls with --skip-account {sid}"
            raise CommandUnfinished(f"Twilio's list of account {sid} cannot be read ({reason}): {advice}") from None
        if doubt := inconclusive_reason(replace(candidates, is_complete=True), _clock_offset(candidates, search)):
            raise CommandFailed(f"Twilio's list of account {sid} proves nothing ({doubt}): `callgate doctor` shows the clocks")
        return candidates

    async def _resolve_waiting_call(
        self, waiting_call: Call, candidates: CallCandidates, search: _SearchParameters, audit: _AccountAudit
    ) -> ReleaseResult:
        """Updates the record of one waiting call after a search of Twilio's list, and returns the result.

        If Twilio has no such call, the call keeps waiting. If Twilio certainly has the call, the record is bound to it. If the
        result is uncertain, the record becomes `unknown`. If the outcome of the call has arrived meanwhile, the result is
        "bound"; if the call does not wait any more, for example because it was canceled, the result is "waiting". A dry run
        changes nothing.
        """
        if candidates.is_complete and not candidates.calls:
            return "waiting"
        max_start_delay = search.max_start_delay_of(waiting_call)
        async with self.database.begin() as session:
            if not await lock_scheduled_dial(session, waiting_call.id):
                return "waiting"
            call = await repository.lock_call(session, waiting_call.id)
            if call is None or call.execution != "scheduled":
                # A callback or a late outcome has settled the call, so it is not dialled any more.
                if not search.is_dry_run:
                    await audit.record_first_change(session)
                    await store.replace_scheduled_dial_with_slot(session, waiting_call.id)
                return "bound"
            offset = _clock_offset(candidates, search)
            finding = await evaluate_candidates(session, waiting_call, candidates, offset, max_start_delay=max_start_delay)
            if finding.result == "none":
                return "waiting"
            if not search.is_dry_run:
                await audit.record_first_change(session)
                entries = [finding.resource] if finding.resource else [entry for entry, _ in candidates.calls.values()]
                dates = [entry.date_created for entry in entries if entry.date_created]
                call.pending_since = min(dates, default=waiting_call.pending_since)
                await self._write_finding(
                    session, call, finding, exceeds_search_span=max_start_delay > self.max_start_delay + DATE_TOLERANCE
                )
            return "unknown" if finding.resource is None else "bound"

    async def _write_finding(self, session: Session, call: Call, finding: SearchFinding, *, exceeds_search_span: bool) -> None:
        """Records a search result that is not "none". The call is not dialled any more, but counts as a concurrent call.

        The caller must have locked the call. `exceeds_search_span` says that the call may have been dialled at a time that a
        later search does not cover. If this is true and the result is inconclusive, no later search is planned, because only a
        callback can show the outcome.
        """
        await store.replace_scheduled_dial_with_slot(session, call.id)
        await repository.add_event(session, call.id, "call.searched", {"result": finding.result, **finding.data})
        if finding.resource is not None:
            await self.settlement.bind_twilio_call(session, call, finding.resource, by="list", data={})
        if call.execution == "scheduled":
            await self.settlement.apply_change(session, call, self.settlement.change_to_unknown(data={"reason": "grant_lost"}))
            if exceeds_search_span and finding.result == "inconclusive":
                call.search_at = None


def _clock_offset(candidates: CallCandidates, search: _SearchParameters) -> timedelta | None:
    """Returns Twilio's clock minus Postgres's; None if unknown."""
    ahead = candidates.twilio_clock_offset
    return None if ahead is None else ahead - search.postgres_clock_offset
