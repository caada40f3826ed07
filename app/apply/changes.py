"""The kinds of changes that `callgate apply` makes, so that the stored tenants match the file of tenants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from app.apply.document import FileProblem
from app.scheduling.pace_limits import PaceChange
from app.tenants.administration_store import TenantSettings
from app.tenants.scopes import Scope
from app.workloads.service_accounts import ServiceAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredChange:
    """One change that `callgate apply` makes to a tenant.

    `members` maps each changed member of the file, such as `callbacks.url`, to its old and its new value. None of these values
    is a secret.
    """

    tenant_id: str
    action: Literal["create", "update", "add", "revoke", "delete"]
    subject: str
    members: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantCreation(DeclaredChange):
    settings: TenantSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUpdate(DeclaredChange):
    settings: TenantSettings
    """The settings that change, with their new values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseUrlUpdate(DeclaredChange):
    account_sid: str
    base_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceUpdate(DeclaredChange):
    account_sid: str
    pace: PaceChange | None
    """The changes to the dialling limits. None removes all limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioCredentialAddition(DeclaredChange):
    account_sid: str
    base_url: str | None
    key_sid: str | None
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioCredentialRevocation(DeclaredChange):
    credential_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRevocation(DeclaredChange):
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCredentialCreation(DeclaredChange):
    name: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCredentialReplacement(DeclaredChange):
    name: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCredentialDeletion(DeclaredChange):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadUpsert(DeclaredChange):
    account: ServiceAccount
    scopes: list[Scope]
    replaced_workload_id: UUID | None
    """The id of the service account's stored workload, which has other scopes and is deleted first. None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadDeletion(DeclaredChange):
    workload_id: UUID


@dataclass(frozen=True, slots=True)
class ChangePlan:
    changes: list[DeclaredChange]
    notes: list[FileProblem]
    """Notices for the operator about the file. They are not errors."""
