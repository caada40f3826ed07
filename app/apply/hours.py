"""The calling hours of a tenant in a declaration (a file for `callgate apply`)."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from app.apply.document import FileProblem, MemberPath
from app.apply.members import DeclarationModel, Omittable
from app.scheduling.hours import END_TIME_PATTERN, TIME_PATTERN, CallingHoursInvalid, Day, parse_calling_hours

_From = Annotated[str, Field(alias="from", json_schema_extra={"pattern": f"^{TIME_PATTERN}$"})]
_To = Annotated[str, Field(json_schema_extra={"pattern": f"^{END_TIME_PATTERN}$"})]


class DeclaredHours(DeclarationModel):
    """The tenant's calling hours: when scheduled calls may ring, in the callee's time zone.

    Replaces the stored hours as a whole.
    """

    time_zone: str = Field(description="The zone (IANA) of callees whose own is unknown.")
    days: Omittable[list[Day]] = Field(
        None,
        min_length=1,
        description="The days on which the window begins. Unset: every day.",
        json_schema_extra={"uniqueItems": True},
    )
    from_: _From = Field(description="The first minute, such as '09:00'.")
    to: _To = Field(description="The end, not included. A time before `from` is on the next day; a whole day ends at '24:00'.")

    def to_json(self) -> dict[str, Any]:
        """Returns the hours as JSON, as the database stores them. Raises CallingHoursInvalid if the hours are invalid."""
        return parse_calling_hours(self.model_dump(by_alias=True, exclude_unset=True), pointer="").to_json()

    def problems_at(self, path: MemberPath) -> Iterator[FileProblem]:
        """Yields the errors in these hours. `path` is the place of the hours in the file."""
        try:
            self.to_json()
        except CallingHoursInvalid as error:
            for fault in error.field_errors:
                members = (int(part) if part.isdecimal() else part for part in fault.pointer.split("/")[1:])
                yield FileProblem(fault.detail, (*path, *members))
