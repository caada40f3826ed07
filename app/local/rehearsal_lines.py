"""Reads the file of a rehearsal (a simulation of scheduled calls). Each line becomes a call, or a refusal with the reason."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from app.calls.creation.scheduled.store import ScheduledCall
from app.calls.creation.scheduled.times import make_schedule
from app.calls.creation.store import NewCall
from app.calls.creation.validation import validate_call
from app.errors import CallgateError, FieldError, InvalidRequest
from app.local.rehearsal_report import RehearsedCall
from app.queues.lines import parse_bulk_line
from app.scheduling.schedule import PRIORITIES
from app.scheduling.store import QueueDialSettings

REHEARSAL_TENANT: Final = "rehearsal"
REHEARSAL_ACCOUNT_SID: Final = "AC" + "0" * 32
_REHEARSAL_CALLER_ID: Final = UUID(int=1)
# A rehearsal delivers no callbacks, and its tenant has no SIP credentials.
_IGNORED_PARAMETERS: Final = ("sip_credential", "status_callback", "status_callback_event", "status_callback_method")


@dataclass(slots=True)
class RehearsalLineReader:
    """Reads and validates the lines of a rehearsal's file, as `POST /v1/queues/{name}/calls` does.

    `start` is the time at which the simulated request arrives.
    """

    queue: str
    stored_queue: QueueDialSettings
    account_id: UUID
    start: datetime
    _line_by_key: dict[str, int] = field(default_factory=dict)

    def read(self, lines: Iterable[bytes]) -> Iterator[tuple[RehearsedCall, ScheduledCall | None]]:
        """Yields two objects for each line that is not empty: the call for the report, and the call to store in the database.

        The second object is None if the call is refused. The first object then has the reason.
        """
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            line = parse_bulk_line(number, text)
            call = RehearsedCall(number, line.key)
            scheduled = None
            try:
                if isinstance(line.body, CallgateError):
                    raise line.body
                if line.key is not None and (first := self._line_by_key.setdefault(line.key, number)) != number:
                    raise _invalid_line_error("/key", "repeated_key", f"is that of line {first}")
                if line.body.get("queue", self.queue) != self.queue:
                    raise _invalid_line_error("/queue", "another_queue", f"must be {self.queue}, or be left out")
                scheduled = self._scheduled_call_of_body(call, {**line.body, "queue": self.queue})
            except CallgateError as error:
                call.outcome = "refused"
                faults = (f"{fault.pointer} {fault.detail}".strip() for fault in error.field_errors)
                call.reason = "; ".join(faults) or error.detail
            yield call, scheduled

    def _scheduled_call_of_body(self, call: RehearsedCall, body: dict[str, Any]) -> ScheduledCall:
        """Validates the `body` of a line, and returns the call to store. Raises a CallgateError if the body is not valid.

        Also sets the times and the priority of `call`, the entry of the report for this line.
        """
        request = validate_call(body).request
        schedule = make_schedule(request, self.stored_queue, _REHEARSAL_CALLER_ID, now=self.start)
        call.not_before, call.ring_by = schedule.not_before, schedule.ring_by
        call.priority = PRIORITIES[schedule.priority]
        parameters = request.parameters_for_record() | schedule.call_record_members(self.queue)
        new = NewCall(
            id=_call_id_in_line_order(self.start, call.line),
            tenant_id=REHEARSAL_TENANT,
            account_id=self.account_id,
            account_sid=REHEARSAL_ACCOUNT_SID,
            created_at=self.start,
            idempotency_key=call.key,
            fingerprint=b"",
            parameters={name: value for name, value in parameters.items() if name not in _IGNORED_PARAMETERS},
            warnings=[],
            to=request.to,
            from_=request.from_,
            address_key=None,
            traceparent=None,
            status_callback=None,
            status_callback_method=None,
            status_callback_events=None,
        )
        return ScheduledCall(new, schedule)


def _call_id_in_line_order(at: datetime, number: int) -> UUID:
    """Returns a UUIDv7 (RFC 9562 §5.7) with `number`, the number of the line, in place of its random bits.

    Calls that are due together are dialled in the order of their ids. With these ids, they are dialled in line order.
    """
    return UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number)


def _invalid_line_error(pointer: str, code: str, detail: str) -> InvalidRequest:
    return InvalidRequest(field_errors=(FieldError(pointer, code, detail),))
