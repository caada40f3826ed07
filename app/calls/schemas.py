"""The response bodies for calls: records, lists and events. Times are in RFC 3339 and UTC. Prices are decimal strings."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import TypeAliasType

from app.callgate_error import ExecutionName

Money = Annotated[Decimal, PlainSerializer(lambda amount: f"{amount:f}", return_type=str)]
Execution = TypeAliasType("Execution", ExecutionName)
Status = TypeAliasType(
    "Status",
    Literal["queued", "initiated", "ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled"],
)
SettledBy = TypeAliasType("SettledBy", Literal["response", "callback", "list", "none_found", "expired", "canceled"])
JsonObject = TypeAliasType("JsonObject", dict[str, Any])


class CallWarning(BaseModel):
    """A warning: the request was accepted, but part of it may not have the intended effect."""

    pointer: str = Field(description="RFC 6901 JSON pointer into the request.")
    code: str
    detail: str


class StoredFieldError(BaseModel):
    """An error in one member of the request, which was found only when the scheduled call was to be dialled."""

    pointer: str = Field(description="RFC 6901 JSON pointer into the request.")
    code: str
    detail: str


class StoredProblem(BaseModel):
    """The reason why the call was not started, as in the problem+json of the creation."""

    slug: str
    detail: str
    upstream: JsonObject | None = None
    errors: list[StoredFieldError] | None = None


class CallSummary(BaseModel):
    """The record of one call creation. Values that Twilio has not sent yet are null."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(description="Callgate's id of the call, a UUIDv7.")
    execution: Execution = Field(description="The outcome of the creation.")
    settled_by: SettledBy | None = Field(description="How the outcome was determined; null while it is not.")
    status: str | None = Field(description="Twilio's status of the call; null until it is started.")
    sid: str | None = Field(description="Twilio's CallSid; null until the call is started.")
    account_sid: str
    to: str
    from_: str = Field(serialization_alias="from", validation_alias="from_")
    direction: str | None
    start_time: datetime | None
    end_time: datetime | None
    duration: int | None = Field(description="The duration in seconds.")
    price: Money | None = Field(description="A negative decimal as a string; null until Twilio has set a price.")
    price_unit: str | None = Field(description="The currency by ISO 4217.")
    answered_by: str | None
    caller_name: str | None
    to_formatted: str | None
    from_formatted: str | None
    forwarded_from: str | None
    parent_call_sid: str | None
    phone_number_sid: str | None
    group_sid: str | None
    trunk_sid: str | None
    queue_time: int | None = Field(description="Twilio's estimate of the time in its queue, in milliseconds.")
    api_version: str | None
    date_created: datetime | None = Field(description="When Twilio created the call.")
    date_updated: datetime | None = Field(description="When Twilio last updated the call.")
    uri: str | None
    subresource_uris: JsonObject | None
    idempotency_key: str | None
    parameters: JsonObject = Field(description="The parameters of the request, without secrets.")
    warnings: list[CallWarning]
    problem: StoredProblem | None = Field(description="Why the call was not started; otherwise null.")
    redial_of: UUID | None = Field(
        description="The id of the call whose end caused this one (`redial`); null for a call that was requested."
    )
    created_at: datetime = Field(description="When Callgate recorded the request.")
    deleted_at: datetime | None = Field(
        description="When the call was deleted at Twilio, or Callgate noticed that it was. The record stays."
    )
    updated_at: datetime


class CallRecord(CallSummary):
    """The record of one call creation, with the last resource that Twilio sent, including keys that Callgate does not know."""

    resource: JsonObject | None


class CallPage(BaseModel):
    calls: list[CallSummary]
    next_cursor: str | None = Field(description="The `cursor` of the next, older page; null on the last page.")


class EventRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    at: datetime
    type: str = Field(
        description="`call.scheduled`, `call.pending`, `call.started`, `call.not_started`, `call.unknown`, "
        "`call.searched`, `call.callback`, "
        "`call.corrected`, `call.second_sid`, `call.status`, `call.priced`, `call.updated`, `call.update_remembered`, "
        "`call.update_forgotten`, `call.update_unknown`, `call.deleted`, `call.redialed`, `call.redial_expired`, "
        "`call.redial_not_written`, "
        "and for subresources `call.recording`, `call.payment` and so on. [Operations](/docs/operations) explains each."
    )
    data: JsonObject


class EventList(BaseModel):
    events: list[EventRecord]
