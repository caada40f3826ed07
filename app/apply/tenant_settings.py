"""Reads a tenant's settings from a declaration and from the database in the same format, so that they can be compared."""

from typing import Any, Final

from app.apply.schemas import DeclaredTenant
from app.scheduling.hours import parse_calling_hours
from app.tenants.administration_store import TenantRow, TenantSettings
from app.tenants.callback_settings import SETTINGS_BY_CALLBACK_MEMBER, parse_callback_settings

_DEFAULT_CALLBACK_METHOD: Final = "POST"
_DEFAULT_CALLBACK_EVENTS: Final = ("completed",)
NEW_TENANT_SETTINGS: Final = TenantSettings(
    suspended=False,
    status_callback=None,
    status_callback_method=None,
    status_callback_events=None,
    callback_format="twilio",
    max_in_flight=None,
    hours=None,
)
# The member of the file for each setting, in the order to print them.
MEMBERS_BY_SETTING: Final = {
    "name": "name",
    "suspended": "suspended",
    **{setting: f"callbacks.{name}" for name, setting in SETTINGS_BY_CALLBACK_MEMBER.items()},
    "max_in_flight": "limits.max_in_flight",
    "hours": "hours",
}


def declared_settings(tenant: DeclaredTenant) -> dict[str, Any]:
    """Returns the tenant's settings that are present in the file, by name."""
    settings: dict[str, Any] = {name: getattr(tenant, name) for name in ("name", "suspended") if tenant.has_member(name)}
    if tenant.callbacks is not None:
        settings |= parse_callback_settings(
            {name: getattr(tenant.callbacks, name) for name in tenant.callbacks.model_fields_set}
        )
    if tenant.limits is not None and tenant.limits.has_member("max_in_flight"):
        settings["max_in_flight"] = tenant.limits.max_in_flight
    if tenant.has_member("hours"):
        settings["hours"] = None if tenant.hours is None else tenant.hours.to_json()
    return settings


def stored_settings(row: TenantRow) -> TenantSettings:
    """Returns the tenant's settings in the database row.

    Sorts the members of `hours`, because Postgres (jsonb) does not keep their order.
    """
    settings = row.settings
    if settings["hours"] is not None:
        settings["hours"] = parse_calling_hours(settings["hours"]).to_json()
    return settings


def comparable_value(setting: str, value: Any) -> Any:
    """Returns the value in a form in which the file's and the stored value of a setting can be compared.

    For the method and the events of status callbacks, the default replaces None. The events become a set, because their order
    has no meaning. Values of other settings are returned unchanged.
    """
    if setting == "status_callback_method":
        return value or _DEFAULT_CALLBACK_METHOD
    if setting == "status_callback_events":
        return set(value or _DEFAULT_CALLBACK_EVENTS)
    return value
