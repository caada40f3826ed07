"""Request and response bodies of tenants. Tenants in a file for `callgate apply` have members of the same names."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from app.scheduling.schemas import HoursRecord, HoursSettings
from app.setting_values import MAX_IN_FLIGHT_LIMIT
from app.tenants.administration import SUSPENDED_DESCRIPTION, TENANT_ID_PATTERN
from app.tenants.administration_store import TenantRow, TenantSettings
from app.tenants.callback_settings import CallbackFormat, DeliveryEvent, parse_callback_settings
from app.tenants.names import MAX_DISPLAY_NAME_LENGTH, TENANT_NAME_PATTERN

CallbackEvents = Annotated[list[DeliveryEvent], Field(min_length=1, max_length=5)]
_Name = Annotated[
    str,
    Field(
        min_length=1, max_length=MAX_DISPLAY_NAME_LENGTH, pattern=f"^{TENANT_NAME_PATTERN}$", description="The display name."
    ),
]
_Id = Annotated[
    str,
    Field(
        pattern=f"^{TENANT_ID_PATTERN.pattern}$", description="Lower-case letters, digits and '-', at most 63. Never changes."
    ),
]
# Not an enum, because client generators give the type of a nullable enum a numbered name.
_Method = Annotated[str, Field(pattern="^(GET|POST)$")]
_MaxInFlight = Annotated[int, Field(ge=1, le=MAX_IN_FLIGHT_LIMIT)]
_MAX_IN_FLIGHT_DESCRIPTION = (
    "Creations that one process sends to Twilio at the same time for this tenant. Null: `CALLGATE_MAX_IN_FLIGHT_PER_TENANT`."
)
_HOURS_DESCRIPTION = "When scheduled calls may ring, unless their queue has hours of its own. Null: at any time."


class _SettingsBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    def _present_members(self, *names: str) -> dict[str, Any]:
        """Returns the values, by name, of the given members that are present in the body. A null member is present, too."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class TenantCallbackSettings(_SettingsBody):
    """Where to deliver status callbacks of calls without their own `status_callback`, and the format of all callbacks."""

    url: str | None = Field(
        None, max_length=2048, description="The default URL. Null removes it, and method and events with it."
    )
    method: _Method | None = Field(None, description="The HTTP method. Null: POST.")
    events: CallbackEvents | None = Field(None, description="The events to deliver. Null: `completed`.")
    format: CallbackFormat = Field("twilio", description="`twilio`: Twilio's form fields. `json`: Callgate's event.")

    @property
    def settings(self) -> dict[str, Any]:
        return parse_callback_settings(self._present_members("url", "method", "events", "format"))


class TenantLimits(_SettingsBody):
    max_in_flight: _MaxInFlight | None = Field(None, description=_MAX_IN_FLIGHT_DESCRIPTION)


class _TenantSettingsBody(_SettingsBody):
    suspended: bool = Field(False, description=SUSPENDED_DESCRIPTION)
    callbacks: TenantCallbackSettings = Field(default_factory=TenantCallbackSettings)
    limits: TenantLimits = Field(default_factory=TenantLimits)
    hours: HoursSettings | None = Field(None, description=_HOURS_DESCRIPTION)

    @property
    def settings(self) -> TenantSettings:
        """The settings that are present in the body. Raises CallingHoursInvalid if the calling hours are invalid."""
        limits = self.limits._present_members("max_in_flight")
        own = self._present_members("name", "suspended")
        settings: TenantSettings = {**own, **self.callbacks.settings, **limits}  # type: ignore[typeddict-item]
        if "hours" in self.model_fields_set:
            settings["hours"] = None if self.hours is None else self.hours.parse_hours().to_json()
        return settings


class NewTenant(_TenantSettingsBody):
    """A tenant to create."""

    id: _Id
    name: _Name


class TenantChange(_TenantSettingsBody):
    """Changes to a tenant. Members that are missing stay as they are."""

    name: _Name = ""


class TenantCallbacksRecord(BaseModel):
    url: str | None = Field(description="The default URL of status callbacks.")
    method: _Method | None = Field(description="The HTTP method. Null: POST.")
    events: CallbackEvents | None = Field(description="The events that are delivered. Null: `completed`.")
    format: CallbackFormat = Field(description="`twilio`: Twilio's form fields. `json`: Callgate's event.")


class TenantLimitsRecord(BaseModel):
    max_in_flight: int | None = Field(description=_MAX_IN_FLIGHT_DESCRIPTION)


class TenantRecord(BaseModel):
    """A tenant: a team or product that places calls."""

    id: _Id
    name: str
    suspended: bool = Field(description=SUSPENDED_DESCRIPTION)
    suspended_at: datetime | None
    callbacks: TenantCallbacksRecord
    limits: TenantLimitsRecord
    hours: HoursRecord | None = Field(description=_HOURS_DESCRIPTION)
    created_at: datetime

    @classmethod
    def from_row(cls, row: TenantRow) -> Self:
        return cls.model_validate(
            {
                "id": row.id,
                "name": row.name,
                "suspended": row.suspended_at is not None,
                "suspended_at": row.suspended_at,
                "callbacks": {
                    "url": row.status_callback,
                    "method": row.status_callback_method,
                    "events": row.status_callback_events,
                    "format": row.callback_format,
                },
                "limits": {"max_in_flight": row.max_in_flight},
                "hours": row.hours,
                "created_at": row.created_at,
            }
        )


class TenantPage(BaseModel):
    tenants: list[TenantRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")
