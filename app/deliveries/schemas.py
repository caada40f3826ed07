"""Request and response bodies of the delivery routes."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.http.times import Timestamp


class DeliveryRecord(BaseModel):
    """A delivery of one event of a call, and its state."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    call_id: UUID
    event: Literal["settled", "corrected", "initiated", "ringing", "answered", "completed"]
    sequence: int | None = Field(description="Twilio's SequenceNumber; null when no callback reported the event.")
    webhook_id: str = Field(description="The same in every attempt, so that the receiver recognizes repetitions.")
    url: str = Field(description="Empty if the call has no URL any more.")
    method: str
    state: Literal["pending", "delivered", "gave_up"]
    attempts: int = Field(description="Attempts since the delivery was written or requested again.")
    next_attempt_at: datetime | None = Field(description="The earliest time of the next attempt; null when there is none.")
    last_attempt_at: datetime | None
    last_status: int | None = Field(description="The HTTP status of the last answer.")
    last_error: str | None = Field(
        description="Why the last attempt got no answer, in one word; [Callbacks](/docs/callbacks) lists the words."
    )
    delivered_at: datetime | None
    created_at: datetime = Field(validation_alias="at")
    fields: dict[str, Any] = Field(description="The fields of Twilio's callback for the event, or those of a settlement.")


class DeliveryList(BaseModel):
    deliveries: list[DeliveryRecord]


class ReplayRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    since: Timestamp = Field(description="Replay deliveries written at this time or later. RFC 3339 with a time zone.")
    failed_only: bool = Field(True, strict=True, description="False also replays deliveries that succeeded.")


class ReplayAnswer(BaseModel):
    replayed: int = Field(description="The number of deliveries that are due again.")
    continue_since: datetime | None = Field(
        description="Null if there are no more; otherwise repeat the request with this time as `since`."
    )
