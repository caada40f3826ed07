"""Turns a tenant and its records into what the tenant's page shows. The records contain no secrets."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from app.console.masking import mask_url
from app.console.tenants.store import MAX_LISTED_RECORDS, TenantDetails
from app.console.texts import hours_text, pace_text
from app.http.operations import CONSOLE_PREFIX
from app.scheduling.hours import parse_calling_hours
from app.scheduling.pace_limits import UNLIMITED_PACE
from app.tenants.administration_store import AccountRow, ApiKeyRow, ApiKeyState, CredentialRow, TenantRow

TENANTS_PATH: Final = f"{CONSOLE_PREFIX}/tenants"


def tenant_path(tenant_id: str) -> str:
    return f"{TENANTS_PATH}/{quote(tenant_id, safe='')}"


@dataclass(frozen=True, slots=True)
class AccountView:
    row: AccountRow
    pace: str
    credentials: list[CredentialRow]


@dataclass(frozen=True, slots=True)
class KeyView:
    row: ApiKeyRow
    state: ApiKeyState
    scopes: str


@dataclass(frozen=True, slots=True)
class TenantView:
    tenant: TenantRow
    path: str
    state: str
    max_in_flight: str
    callback_target: str | None
    callback_events: str
    hours: str | None
    accounts: list[AccountView]
    keys: list[KeyView]
    """The API keys: the active ones, then the expired ones, then the revoked ones, in each group the newest first."""
    details: TenantDetails
    truncated_to: int | None
    """The number of records of one kind that the page shows, if the tenant may have more; otherwise None."""

    @classmethod
    def from_details(cls, details: TenantDetails, now: datetime) -> "TenantView":
        tenant, limit = details.tenant, details.tenant.max_in_flight
        listed = (details.accounts, details.keys, details.sip_credentials, details.workloads)
        return cls(
            tenant=tenant,
            path=tenant_path(tenant.id),
            state=tenant_state(tenant),
            max_in_flight="as many as the process allows" if limit is None else f"at most {limit:,}",
            callback_target=None if tenant.status_callback is None else mask_url(tenant.status_callback),
            callback_events=", ".join(tenant.status_callback_events or ("completed",)),
            hours=None if tenant.hours is None else hours_text(parse_calling_hours(tenant.hours)),
            accounts=[_account_view(account, details) for account in details.accounts],
            keys=_key_views(details.keys, now),
            details=details,
            truncated_to=MAX_LISTED_RECORDS if any(len(rows) == MAX_LISTED_RECORDS for rows in listed) else None,
        )


def tenant_state(tenant: TenantRow) -> str:
    return "active" if tenant.suspended_at is None else "suspended"


def _account_view(account: AccountRow, details: TenantDetails) -> AccountView:
    own = [credential for credential in details.credentials if credential.account_id == account.id]
    return AccountView(account, pace_text(details.paces.get(account.id, UNLIMITED_PACE)), own)


def _key_views(rows: list[ApiKeyRow], now: datetime) -> list[KeyView]:
    views = [KeyView(row, row.state_at(now), ", ".join(row.scopes)) for row in rows]
    return sorted(views, key=lambda view: view.state != "active")
