"""Schemas for the member `hours` of requests and responses: when scheduled calls may ring."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.scheduling.hours import DAYS, END_TIME_PATTERN, TIME_PATTERN, CallingHours, Day, parse_calling_hours

_Zone = Annotated[
    str, Field(max_length=64, description="The zone (IANA) of callees whose own is unknown.", examples=["Europe/Berlin"])
]
_Days = Annotated[
    list[Day],
    Field(
        min_length=1,
        max_length=len(DAYS),
        description="The days on which the window begins.",
        json_schema_extra={"uniqueItems": True},
    ),
]
_From = Annotated[str, Field(alias="from", pattern=f"^{TIME_PATTERN}$", description="The first minute.", examples=["09:00"])]
_To = Annotated[
    str,
    Field(
        pattern=f"^{END_TIME_PATTERN}$",
        description="The end, not included. A time before `from` is on the next day; a whole day is from 00:00 to 24:00.",
        examples=["18:00"],
    ),
]


class HoursSettings(BaseModel):
    """When scheduled calls may ring, in the callee's time zone. Without `days`: every day."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    time_zone: _Zone
    days: _Days = list(DAYS)
    from_: _From
    to: _To

    def parse_hours(self, pointer: str = "/hours") -> CallingHours:
        """Returns these settings as CallingHours. Raises CallingHoursInvalid if they are invalid.

        The JSON pointers of the errors begin with `pointer`.
        """
        return parse_calling_hours(self.model_dump(by_alias=True), pointer)


class HoursRecord(BaseModel):
    """When scheduled calls may ring, in the callee's time zone."""

    time_zone: _Zone
    days: _Days
    from_: _From
    to: _To
