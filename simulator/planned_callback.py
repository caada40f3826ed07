"""Computes the callbacks of a call and their form fields: https://www.twilio.com/docs/voice/api/call-resource#statuscallback."""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from math import ceil
from uuid import NAMESPACE_URL, uuid5

from simulator.destination import is_sip
from simulator.lifecycle import CallPlan, Status, progress_at
from simulator.resource import API_VERSION, format_rfc2822
from simulator.store import Call
from simulator.subscription import CallbackSubscription, CallEvent

CALL_STATUS_BY_EVENT = {CallEvent.INITIATED: "initiated", CallEvent.RINGING: "ringing", CallEvent.ANSWERED: "in-progress"}
# Twilio documents 487 for a timeout and 404 for an unreachable destination; the others are SIP's (RFC 3261 §21).
SIP_RESPONSE_CODE_BY_STATUS = {
    Status.COMPLETED: 200,
    Status.BUSY: 486,
    Status.NO_ANSWER: 487,
    Status.CANCELED: 487,
    Status.FAILED: 404,
}


@dataclass(frozen=True, slots=True)
class PlannedCallback:
    """A status callback that reports one event of a call, which happens at `happened_at`."""

    call: Call
    subscription: CallbackSubscription
    event: CallEvent
    sequence: int
    """The number of the event among the requested events of the call, counted from 0."""
    happened_at: datetime

    @property
    def call_status(self) -> str:
        return CALL_STATUS_BY_EVENT.get(self.event, self.call.plan.outcome)

    @property
    def idempotency_token(self) -> str:
        """Returns the idempotency token of the callback. All attempts and duplicates of the callback have the same token."""
        return str(uuid5(NAMESPACE_URL, f"{self.call.sid}/{self.sequence}"))

    def fields(self) -> dict[str, str]:
        call = self.call
        fields = {
            "CallSid": call.sid,
            "AccountSid": call.account_sid,
            "From": call.parameters.from_,
            "To": call.parameters.to,
            "Caller": call.parameters.from_,
            "Called": call.parameters.to,
            "CallStatus": self.call_status,
            "ApiVersion": API_VERSION,
            "Direction": "outbound-api",
            "Timestamp": format_rfc2822(self.happened_at) or "",
            "CallbackSource": "call-progress-events",
            "SequenceNumber": str(self.sequence),
        }
        return fields | self._completed_fields() if self.event is CallEvent.COMPLETED else fields

    def _completed_fields(self) -> dict[str, str]:
        call = self.call
        talked_s = progress_at(call.plan, self.happened_at).duration_s or 0
        fields = {"CallDuration": str(talked_s), "Duration": str(ceil(talked_s / 60))}
        if is_sip(call.parameters.to):
            fields["SipResponseCode"] = str(SIP_RESPONSE_CODE_BY_STATUS[call.plan.outcome])
        if call.parameters.is_recorded and call.plan.outcome is Status.COMPLETED:
            recording_sid = f"RE{sha256(call.sid.encode()).hexdigest()[:32]}"
            path = f"/{API_VERSION}/Accounts/{call.account_sid}/Recordings/{recording_sid}"
            fields |= {
                "RecordingSid": recording_sid,
                "RecordingUrl": f"https://api.twilio.com{path}",
                "RecordingDuration": str(talked_s),
            }
        return fields


def planned_callbacks(call: Call) -> list[PlannedCallback]:
    """Returns all callbacks of the call according to its current plan, in the order of their events.

    Includes callbacks whose time has passed. A call that was canceled in the queue was never dialled and has no callbacks.
    """
    subscription = call.subscription
    if subscription is None:
        return []
    events = [(event, moment) for event, moment in _planned_events(call.plan) if event in subscription.events]
    return [PlannedCallback(call, subscription, event, sequence, moment) for sequence, (event, moment) in enumerate(events)]


def _planned_events(plan: CallPlan) -> list[tuple[CallEvent, datetime]]:
    moments = {
        CallEvent.INITIATED: plan.dialled_at,
        CallEvent.RINGING: None if plan.outcome is Status.FAILED else plan.dialled_at,
        CallEvent.ANSWERED: plan.answered_at,
        CallEvent.COMPLETED: plan.ended_at,
    }
    if plan.dialled_at is None:
        return []
    return [(event, moment) for event, moment in moments.items() if moment is not None]
