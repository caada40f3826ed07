"""The changes that bring the stored tenants in line with a declaration. Each is made by one use case of the administration."""

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
class Change:
    """One change to make. `members` maps each changed member's name to its values before and after. No value is a secret."""

    tenant_id: str
    action: Literal["create", "update", "add", "revoke", "delete"]
    subject: str
    members: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantCreation(Change):
    settings: TenantSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUpdate(Change):
    settings: TenantSettings
    """The settings that change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseUrlChange(Change):
    account_sid: str
    base_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceUpdate(Change):
    account_sid: str
    pace: PaceChange | None
    """None removes all limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialAddition(Change):
    account_sid: str
    base_url: str | None
    key_sid: str | None
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRevocation(Change):
    credential_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRevocation(Change):
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCredentialCreation(Change):
    name: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCredentialReplacement(Change):
    name: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SipCredentialDeletion(Change):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadCreation(Change):
    account: ServiceAccount
    scopes: list[Scope]
    replaces: UUID | None
    """The workload that has other scopes. It is deleted first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadDeletion(Change):
    workload_id: UUID


@dataclass(frozen=True, slots=True)
class ChangePlan:
    changes: list[Change]
    notes: list[FileProblem]
    """Notices for the operator about the file. They are not errors."""
