"""Request and response bodies of workloads."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from app.tenants.scopes import Scope, known_scopes, sort_scopes
from app.tenants.workload_store import WorkloadRow
from app.workloads.service_accounts import (
    MAX_NAMESPACE_LENGTH,
    MAX_SERVICE_ACCOUNT_LENGTH,
    NAMESPACE_PATTERN,
    SERVICE_ACCOUNT_PATTERN,
)

_Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
_Namespace = Annotated[
    StrictStr, Field(min_length=1, max_length=MAX_NAMESPACE_LENGTH, pattern=f"^{NAMESPACE_PATTERN.pattern}$")
]
_ServiceAccount = Annotated[
    StrictStr, Field(min_length=1, max_length=MAX_SERVICE_ACCOUNT_LENGTH, pattern=f"^{SERVICE_ACCOUNT_PATTERN.pattern}$")
]


class NewWorkload(BaseModel):
    """A Kubernetes service account that is to act for the tenant."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    namespace: _Namespace = Field(description="The namespace of the service account.")
    service_account: _ServiceAccount = Field(description="The name of the service account.")
    scopes: _Scopes | None = Field(None, description="What the workload may do. Without it: `call` and `read`.")
    issuer: Annotated[StrictStr, Field(min_length=1, max_length=2048, pattern=r"^[!-~]+$")] | None = Field(
        None, description="The issuer of its tokens (`iss`). Without it: `CALLGATE_WORKLOAD_ISSUER`."
    )


class WorkloadRecord(BaseModel):
    """A Kubernetes service account that acts for the tenant."""

    id: UUID
    namespace: str
    service_account: str
    issuer: str = Field(description="The issuer of its tokens. The same names in another cluster are another workload.")
    scopes: list[Scope]
    created_at: datetime

    @classmethod
    def from_row(cls, row: WorkloadRow) -> Self:
        return cls(
            id=row.id,
            namespace=row.namespace,
            service_account=row.service_account,
            issuer=row.issuer,
            scopes=sort_scopes(known_scopes(row.scopes)),
            created_at=row.created_at,
        )


class WorkloadPage(BaseModel):
    workloads: list[WorkloadRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")
