"""What tenants are shown of their deliveries, and what they may ask."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.http.times import Moment


class DeliveryRecord(BaseModel):
    """One event of a call, and whether its receiver has it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    call_id: UUID
    event: Literal["initiated", "ringing", "answered", "completed"]
    sequence: int | None = Field(description="Twilio's SequenceNumber; null when no callback told of the event.")
    webhook_id: str = Field(description="The same in every attempt, so that the receiver knows a repetition.")
    url: str
    method: str
    state: Literal["pending", "delivered", "gave_up"]
    attempts: int = Field(description="Since it was written, or asked for again.")
    next_attempt_at: datetime | None = Field(description="At the earliest; null when there is none to come.")
    last_attempt_at: datetime | None
    last_status: int | None = Field(description="What the receiver answered the last time.")
    last_error: str | None = Field(description="Why there was no answer, in one word; [Callbacks](/docs/callbacks) lists them.")
    delivered_at: datetime | None
    created_at: datetime = Field(validation_alias="at")
    fields: dict[str, Any] = Field(description="What Twilio said of the event.")


class DeliveryList(BaseModel):
    deliveries: list[DeliveryRecord]


class ReplayRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    since: Moment = Field(description="RFC 3339 with its zone: deliveries written at this time or later.")
    failed_only: bool = Field(True, strict=True, description="true by default; false: delivered ones too.")


class ReplayAnswer(BaseModel):
    replayed: int = Field(description="How many are on their way again.")
    continue_since: datetime | None = Field(
        description="Null when that was all; otherwise there may be more: ask again with this as `since`."
    )
