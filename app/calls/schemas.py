"""What callers are shown: records, lists, events. Times are RFC 3339 in UTC, money is a decimal string."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import TypeAliasType

Money = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str)]
Execution = TypeAliasType("Execution", Literal["pending", "started", "not_started", "unknown"])
Status = TypeAliasType(
    "Status",
    Literal["queued", "initiated", "ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled"],
)
SettledBy = TypeAliasType("SettledBy", Literal["response", "callback", "list", "none_found"])
JsonObject = TypeAliasType("JsonObject", dict[str, Any])


class CallWarning(BaseModel):
    """Accepted, but not as it may look."""

    pointer: str = Field(description="RFC 6901 JSON pointer into the request.")
    code: str
    detail: str


class StoredProblem(BaseModel):
    """Why the call was not started; the same words as in the problem+json that answered the request."""

    slug: str
    detail: str
    upstream: JsonObject | None = None


class CallSummary(BaseModel):
    """The record of one call creation. What Twilio has not said yet is null."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="Ours, a UUIDv7.")
    execution: Execution = Field(description="What became of the creation.")
    settled_by: SettledBy | None = Field(description="How that is known; null while it is not.")
    status: str | None = Field(description="Twilio's word for the call's progress; null until started.")
    sid: str | None = Field(description="Twilio's CallSid, once started.")
    account_sid: str
    to: str
    from_: str = Field(serialization_alias="from", validation_alias="from_")
    direction: str | None
    start_time: datetime | None
    end_time: datetime | None
    duration: int | None = Field(description="Seconds.")
    price: Money | None = Field(description="A decimal string, negative; null until Twilio has priced the call.")
    price_unit: str | None = Field(description="ISO 4217.")
    answered_by: str | None
    caller_name: str | None
    to_formatted: str | None
    from_formatted: str | None
    forwarded_from: str | None
    parent_call_sid: str | None
    phone_number_sid: str | None
    group_sid: str | None
    trunk_sid: str | None
    queue_time: int | None = Field(description="Milliseconds, as Twilio estimated them.")
    api_version: str | None
    date_created: datetime | None = Field(description="Twilio's.")
    date_updated: datetime | None = Field(description="Twilio's.")
    uri: str | None
    subresource_uris: JsonObject | None
    idempotency_key: str | None
    parameters: JsonObject = Field(description="What was asked for, secrets left out.")
    warnings: list[CallWarning]
    problem: StoredProblem | None = Field(description="Why it was not started.")
    created_at: datetime = Field(description="When the intent was recorded.")
    deleted_at: datetime | None = Field(
        description="When the call was deleted at Twilio, or was first found to be; the record stays."
    )
    updated_at: datetime


class CallRecord(CallSummary):
    """The record with Twilio's resource as it was last seen, unknown keys included."""

    resource: JsonObject | None


class CallPage(BaseModel):
    calls: list[CallSummary]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next, older page; null on the last one.")


class EventRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    at: datetime
    type: str = Field(
        description="`call.pending`, `call.started`, `call.not_started`, `call.unknown`, `call.searched`, `call.callback`, "
        "`call.corrected`, `call.second_sid`, `call.status`, `call.priced`, `call.updated`, `call.update_remembered`, "
        "`call.update_forgotten`, `call.update_unknown`, `call.deleted`, and for what a call has at "
        "Twilio `call.recording`, `call.payment` and so on; [Operations](/docs/operations) explains them."
    )
    data: JsonObject


class EventList(BaseModel):
    events: list[EventRecord]
