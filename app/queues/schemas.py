"""Schemas for request and response bodies of queues."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from app.calls.parameters import CallRequest
from app.calls.schemas import Execution
from app.http.idempotency_key_rules import MAX_IDEMPOTENCY_KEY_LENGTH
from app.http.openapi import drop_null_types
from app.http.problems import Problem
from app.queues.progress import QueueProgress
from app.queues.service import MAX_RING_WITHIN_S, QueueChange
from app.queues.store import QueueRow
from app.queues.wait_reason import WaitReasonName
from app.scheduling.pace_schemas import PaceRecord, PaceSettings
from app.scheduling.schemas import HoursRecord, HoursSettings

WaitReason = TypeAliasType("WaitReason", WaitReasonName)
_HOURS_DESCRIPTION = "When its calls may ring. Null: the tenant's hours, if it has any."
_PAUSED_DESCRIPTION = "Whether its calls wait. Calls under way go on."
_PACE_DESCRIPTION = "How fast its calls are dialled, within the pace of their account. Null: not limited."
_RING_WITHIN_DESCRIPTION = "The default of `ring_by`, in seconds after `not_before`. Null: 15 minutes."
_RingWithin = Annotated[int, Field(ge=1, le=MAX_RING_WITHIN_S)]


class QueueSettings(BaseModel):
    """The settings of a queue to create or change. Missing members stay as they are; null removes a value."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    paused: bool = Field(False, description=_PAUSED_DESCRIPTION)
    pace: PaceSettings | None = Field(None, description=_PACE_DESCRIPTION)
    hours: HoursSettings | None = Field(None, description=_HOURS_DESCRIPTION)
    ring_within_s: _RingWithin | None = Field(None, description=_RING_WITHIN_DESCRIPTION)

    @property
    def queue_change(self) -> QueueChange:
        """The changes to the queue that the request's body describes. Raises CallingHoursInvalid if `hours` is not valid."""
        change: QueueChange = {}
        given = self.model_fields_set
        if "paused" in given:
            change["paused"] = self.paused
        if "pace" in given:
            change["pace"] = None if self.pace is None else self.pace.pace_change
        if "hours" in given:
            change["hours"] = None if self.hours is None else self.hours.parse_hours()
        if "ring_within_s" in given:
            change["ring_within_s"] = self.ring_within_s
        return change


class QueueRecord(BaseModel):
    """A queue: a named set of scheduled calls."""

    name: str
    paused: bool = Field(description=_PAUSED_DESCRIPTION)
    pace: PaceRecord | None = Field(description=_PACE_DESCRIPTION)
    hours: HoursRecord | None = Field(description=_HOURS_DESCRIPTION)
    ring_within_s: int | None = Field(description=_RING_WITHIN_DESCRIPTION)
    created_at: datetime
    updated_at: datetime = Field(description="When a setting was last changed.")

    @classmethod
    def from_row(cls, row: QueueRow) -> Self:
        return cls(**_queue_record_members(row))


def _queue_record_members(row: QueueRow) -> dict[str, object]:
    return {
        "name": row.name,
        "paused": row.paused,
        "pace": PaceRecord.from_limits(row.pace) if row.pace.is_limited else None,
        "hours": None if row.hours is None else HoursRecord.model_validate(row.hours.to_json()),
        "ring_within_s": row.ring_within_s,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


class QueueCounts(BaseModel):
    """The numbers of calls of a queue by execution, by status and by problem."""

    execution: dict[str, int] = Field(description="By `execution`. `scheduled` calls wait.")
    status: dict[str, int] = Field(description="By Twilio's `status`, which calls have that were started.")
    problem: dict[str, int] = Field(description="By the name of the `problem` for which they were not started.")


class QueueDetails(QueueRecord):
    """A queue and the progress of its calls."""

    waiting: int | None = Field(description="How many calls wait. Null: they could not be counted in time.")
    oldest_not_before: datetime | None = Field(description="The earliest `not_before` of a call that waits.")
    wait_reason: WaitReason | None = Field(
        description="What the call that is due first waits for; `retry`: it could not be dialled, and is tried again; "
        "`halted`: the database was restored or failed over, or an operator has halted all calls, and has to release them. "
        "Null: no call waits, or it is dialled now."
    )
    projected_end_at: datetime | None = Field(
        description="When the last waiting call is dialled or expires, if calls are dialled as fast as the pace allows: now or "
        "later. Null: unknown, as without a pace or with hours."
    )
    counts: QueueCounts | None = Field(description="All calls of the queue. Null: they could not be counted in time.")

    @classmethod
    def with_progress(cls, progress: QueueProgress) -> Self:
        waiting, counts = progress.waiting, progress.counts
        return cls(
            **_queue_record_members(progress.state.queue),
            waiting=None if waiting is None else waiting.number,
            oldest_not_before=None if waiting is None else waiting.first_not_before,
            wait_reason=progress.wait_reason,
            projected_end_at=progress.projected_end_at,
            counts=None if counts is None else QueueCounts.model_validate(counts, from_attributes=True),
        )


class QueuePage(BaseModel):
    queues: list[QueueRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")


class CancelAnswer(BaseModel):
    canceled: int = Field(description="How many calls were canceled by this request.")


class BulkCall(CallRequest):
    """A line of a bulk request: the body of a creation and its key. `queue` may be left out."""

    key: str = Field(min_length=1, max_length=MAX_IDEMPOTENCY_KEY_LENGTH, description="The Idempotency-Key of the creation.")


class BulkAnswer(BaseModel):
    """The answer to one line of a bulk request. It has `status`, `id` and `execution`, or `problem`."""

    model_config = ConfigDict(json_schema_extra=drop_null_types)

    line: int = Field(description="The number of the line, from 1 on.")
    key: str | None = Field(description="The line's key. Null if it could not be read.")
    status: Literal[200, 202] | None = Field(
        None,
        description="202: created. 200: the call of an earlier request with this key. 202 with the `execution` `unknown`: "
        "Postgres has not confirmed the call yet; send the line again with its key.",
    )
    id: UUID | None = Field(None, description="The id of the call's record.")
    execution: Execution | None = Field(None, description="The call's `execution` now.")
    problem: Problem | None = Field(
        None,
        description="Why no call was created, or why the call of an earlier request with this key was not started. "
        "`call-pending`: that call is being placed; send the line again with the same key.",
    )
