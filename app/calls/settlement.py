"""Settles calls: records whether Twilio started a call.

The evidence is Twilio's response, a callback, or a search of Twilio's list of calls. Proof that a call exists overrides every
earlier result: that the outcome is unknown, that no search found it, or that it was not started. Each step writes an event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

import structlog

from app.calls import repository
from app.calls.models import Call
from app.calls.outbox import NewDelivery, delivery_for_outcome
from app.calls.progress import apply_resource, resource_attributes
from app.calls.record_change import RecordChange, make_record_change
from app.calls.refresh_times import delay_until_first_refresh
from app.calls.search_plan import SearchPlan
from app.calls.store import SID_TAKEN_EXPLANATION, AnyCall, NewEvent, was_found_after_all
from app.calls.stored_problem import error_as_json, not_started_reason
from app.database.engine import Session, run_after_commit
from app.errors import CallgateError, CallNotFoundAtTwilio, CanceledBeforeDial, RingByDeadlinePassed
from app.observability import Metrics
from app.twilio.schemas import CallResource

logger = structlog.stdlib.get_logger(__name__)

_MAX_SEARCH_INTERVAL = timedelta(hours=1)
_STOP_SEARCHING_AFTER = timedelta(days=7)

Evidence = Literal["response", "callback", "list"]


class SettledRecord(Protocol):
    """A call's record, such as `Call` or `NewCall`, with the attributes that `Settlement.count_outcome` reads."""

    @property
    def settled_by(self) -> str | None: ...
    @property
    def settled_at(self) -> datetime | None: ...
    @property
    def pending_since(self) -> datetime: ...


class EventsAndDelivery(NamedTuple):
    """The events to write after a call at Twilio was assigned to a record, and the status callback to the tenant.

    `delivery` is None if no status callback is needed.
    """

    events: list[NewEvent]
    delivery: NewDelivery | None = None


def _change_to_ended_before_dial(settled_by: str, error: CallgateError) -> RecordChange:
    """Returns the change for a scheduled call that ended before it was dialled.

    `settled_by` is `expired` or `canceled`. `error` is stored in the record as the reason.
    """
    problem = error_as_json(error)
    columns = {"execution": "not_started", "settled_by": settled_by, "problem": problem}
    return make_record_change("call.not_started", {"problem": problem["slug"], "settled_by": settled_by}, columns)


@dataclass(frozen=True, slots=True)
class Settlement:
    """Makes and applies the changes by which a call's record becomes started, not started, unknown or scheduled again.

    The `async` methods need a row that the caller has locked (`repository.lock_call`), and use the caller's transaction.
    """

    metrics: Metrics
    refresh_interval: timedelta
    plan: SearchPlan

    def change_to_started(
        self, resource: CallResource, *, data: Mapping[str, Any], expects_callbacks: bool = False
    ) -> RecordChange:
        """Returns the change for a creation that Twilio answered with a sid. `data` is added to the event.

        `expects_callbacks` says whether Twilio sends callbacks to Callgate. If so, the first refresh from Twilio is later.
        """
        change = self._change_to_started_by(resource, by="response", data=data, expects_callbacks=expects_callbacks)
        return replace(change, columns={**change.columns, **resource_attributes(resource)})

    def change_to_not_started(self, problem: Mapping[str, Any], *, data: Mapping[str, Any]) -> RecordChange:
        """Returns the change for a creation that certainly started no call: Twilio refused it, or no request was sent.

        `problem` is stored in the record. `data` is added to the event.
        """
        columns = {"execution": "not_started", "settled_by": "response", "problem": problem}
        return make_record_change("call.not_started", {"problem": problem["slug"], **data}, columns)

    def change_to_scheduled(
        self, problem: Mapping[str, Any], dial_row: Mapping[str, Any], *, due_in: timedelta, data: Mapping[str, Any]
    ) -> RecordChange:
        """Returns the change that makes a scheduled call wait again, because a temporary problem prevented its start.

        `dial_row` has the columns of the call's row in `scheduled_dial`. The call may be dialled after `due_in`. `data` is
        added to the event.
        """
        event_data = {"problem": problem["slug"], **data}
        change = make_record_change("call.scheduled", event_data, {"execution": "scheduled"})
        return replace(change, dial_row={**dial_row, "due_in": due_in.total_seconds()})

    @staticmethod
    def change_to_expired() -> RecordChange:
        """Returns the change for a scheduled call that was not dialled before its latest time, `ring_by`."""
        return _change_to_ended_before_dial("expired", RingByDeadlinePassed())

    def change_to_canceled(self) -> RecordChange:
        """Returns the change for a scheduled call that was canceled before it was dialled."""
        return _change_to_ended_before_dial("canceled", CanceledBeforeDial())

    def change_to_unknown(self, *, data: Mapping[str, Any]) -> RecordChange:
        """Returns the change for a call that Twilio may have started. A callback or a search will show whether it has."""
        search_in = self.plan.delay_until_next_search(0)
        return make_record_change("call.unknown", data, {"execution": "unknown"}, search_in=search_in)

    def change_to_none_found(self, *, data: Mapping[str, Any]) -> RecordChange:
        """Returns the change for a call of unknown outcome that `SearchPlan.searches` searches did not find.

        The call counts as not started, but one of the two late searches, or a callback, may still show that it was started.
        """
        problem = {"slug": CallNotFoundAtTwilio.slug, "detail": CallNotFoundAtTwilio.default_detail}
        columns = {"execution": "not_started", "settled_by": "none_found", "problem": problem}
        return make_record_change("call.not_started", {"settled_by": "none_found", **data}, columns)

    def _change_to_started_by(
        self, resource: CallResource, *, by: Evidence, data: Mapping[str, Any], expects_callbacks: bool
    ) -> RecordChange:
        """Returns the change for a call that was started. `by` names the evidence. Takes only the sid from `resource`."""
        columns = {"execution": "started", "settled_by": by, "problem": None, "sid": resource.sid}
        event_data = {"sid": resource.sid, "settled_by": by, **data}
        refresh_in = delay_until_first_refresh(self.refresh_interval, expects_callbacks=expects_callbacks)
        return make_record_change("call.started", event_data, columns, refresh_in=refresh_in)

    async def bind_twilio_call(
        self,
        session: Session,
        call: Call,
        resource: CallResource,
        *,
        by: Evidence,
        data: Mapping[str, Any],
        was: Mapping[str, Any] | None = None,
    ) -> None:
        """Records that Twilio's call `resource` is the call of this record. Writes events and, if requested, a delivery.

        `by` names the evidence. `data` is added to the event. If the sid belongs to another record, or this record has another
        sid, writes only the event `call.second_sid`. `was` is an earlier result `not_started` that was set back to pending and
        is now proven wrong (see `not_started_reason`), or None if there is none.
        """
        is_taken = call.execution != "started" and bool(await repository.find_recorded_sids(session, [resource.sid]))
        execution_before = call.execution
        now = await repository.transaction_start_time(session)
        bound = self.bind_twilio_call_in_memory(call, resource, by=by, data=data, now=now, is_taken=is_taken, was=was)
        for type_, event_data in bound.events:
            await repository.add_event(session, call.id, type_, event_data)
        if bound.delivery is not None:
            await repository.add_delivery(session, bound.delivery)
        if was_found_after_all(execution_before, call.execution):
            await repository.restore_dial_slot(session, call.id)
        if execution_before != "started" and call.execution == "started":
            self.count_outcome(call)
        run_after_commit(session, lambda: self.count_and_log_critical_events(call, bound.events))

    def bind_twilio_call_in_memory(
        self,
        call: AnyCall,
        resource: CallResource,
        *,
        by: Evidence,
        data: Mapping[str, Any],
        now: datetime,
        is_taken: bool,
        was: Mapping[str, Any] | None = None,
    ) -> EventsAndDelivery:
        """Makes Twilio's call `resource` the call of this record, in memory. Returns the events and the delivery to write.

        `is_taken` says whether the sid belongs to another record. If so, or if this record has another sid, leaves the record
        unchanged and returns only the event `call.second_sid`. `now` is the current time of the database's clock. The other
        parameters are those of `bind_twilio_call`. After the commit, pass the events to `count_and_log_critical_events`.
        """
        if call.execution == "started" and call.sid == resource.sid:
            return EventsAndDelivery(apply_resource(call, resource))
        if call.execution == "started" or is_taken:
            return EventsAndDelivery([("call.second_sid", {"sid": resource.sid, "by": by})])
        change = self._change_to_started_by(resource, by=by, data=data, expects_callbacks=by == "callback")
        if call.execution == "not_started":
            was = not_started_reason(call.settled_by, call.problem)
        if was is not None:
            change = replace(change, event="call.corrected", data={**change.data, "was": was})
        delivery = _apply_change_in_memory(call, change, now=now)
        return EventsAndDelivery([(change.event, dict(change.data)), *apply_resource(call, resource)], delivery)

    async def apply_change(self, session: Session, call: Call, change: RecordChange) -> None:
        """Applies the change to the record. Writes its event and, if the tenant requested it, a delivery.

        If the change makes the call wait again, also inserts the call's row of `scheduled_dial`.
        """
        now = await repository.transaction_start_time(session)
        delivery = _apply_change_in_memory(call, change, now=now)
        if change.dial_row:
            await repository.requeue_call(session, change.dial_row, now=now)
        await repository.add_event(session, call.id, change.event, dict(change.data))
        if delivery is not None:
            await repository.add_delivery(session, delivery)
        self.count_outcome(call)

    async def plan_next_search(self, session: Session, call: Call, *, clean_searches: int) -> None:
        """Schedules the next search of Twilio's list, if the plan has one.

        `clean_searches` is the number of searches so far that have shown that the list does not have the call. Failed and
        inconclusive searches do not count.
        """
        wait = self.plan.delay_until_next_search(clean_searches)
        call.clean_searches = clean_searches
        call.search_at = None if wait is None else await repository.transaction_start_time(session) + wait

    async def plan_search_after_inconclusive_search(self, session: Session, call: Call) -> None:
        """Schedules the next search after an inconclusive one, which failed or could not decide whether the call exists.

        The wait before each search is a quarter of the call's age (the time since `pending_since`), within limits. From the age
        `_STOP_SEARCHING_AFTER` on, no further search is scheduled.
        """
        now = await repository.transaction_start_time(session)
        age = now - call.pending_since
        wait = min(max(self.plan.delay_until_first_search, age / 4), _MAX_SEARCH_INTERVAL)
        call.search_at = now + wait if age < _STOP_SEARCHING_AFTER else None

    def count_outcome(self, call: SettledRecord) -> None:
        """Counts the call in the metrics of outcomes, and adds the time for which it was pending.

        Does nothing if the record has no outcome yet. Call this method when the record has just been committed or is about to
        be committed.
        """
        if call.settled_by is not None and call.settled_at is not None:
            self.metrics.calls.settled_series(call.settled_by).inc()
            waited = call.settled_at - call.pending_since
            self.metrics.calls.settle_seconds_series(call.settled_by).observe(waited.total_seconds())

    def count_undialled_calls(self, change: RecordChange, number: int) -> None:
        """Adds scheduled calls to the metrics: `number` calls that `change` has ended before they were dialled."""
        self.metrics.calls.settled_series(change.columns["settled_by"]).inc(number)

    def count_and_log_critical_events(self, call: AnyCall, events: Sequence[NewEvent]) -> None:
        """Counts and logs `call.corrected` and `call.second_sid`, for which critical alerts exist. Ignores all other events.

        Call this method after the commit, or when the commit is in doubt. Within the transaction it would count the events
        again each time that the transaction is repeated.
        """
        for type_, data in events:
            if type_ == "call.corrected":
                self.metrics.calls.corrected.inc()
                logger.error(
                    "execution_corrected", call_id=str(call.id), call_sid=data["sid"], was=data["was"], by=data["settled_by"]
                )
            elif type_ == "call.second_sid":
                self.metrics.calls.second_sids.inc()
                why = "Twilio reports a second call for this record" if call.sid else SID_TAKEN_EXPLANATION
                logger.error(
                    "second_sid", call_id=str(call.id), call_sid=call.sid, other_sid=data["sid"], by=data["by"], why=why
                )


def _apply_change_in_memory(call: AnyCall, change: RecordChange, *, now: datetime) -> NewDelivery | None:
    """Applies the change to a record in memory. Returns the delivery (a status callback to the tenant) to write, or None."""
    delivery = delivery_for_outcome(call, change.columns, events_with_delivery=call.deliveries_written)
    if delivery is not None:
        call.deliveries_written = [*call.deliveries_written, delivery["event"]]
    change.apply_to(call, now=now)
    return delivery
