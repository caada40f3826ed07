"""Request and response bodies of workloads."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from app.tenants.scopes import Scope, in_order, known_scopes
from app.tenants.workload_store import WorkloadRow

_Scopes = Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"


class NewWorkload(BaseModel):
    """A service account of Kubernetes that is to act for the tenant."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    namespace: Annotated[StrictStr, Field(min_length=1, max_length=63, pattern=f"^{_LABEL}$")] = Field(
        description="The namespace of the service account."
    )
    service_account: Annotated[StrictStr, Field(min_length=1, max_length=253, pattern=rf"^{_LABEL}(\.{_LABEL})*$")] = Field(
        description="The name of the service account."
    )
    scopes: _Scopes | None = Field(None, description="What the workload may do. Without it: `call` and `read`.")
    issuer: Annotated[StrictStr, Field(min_length=1, max_length=2048, pattern=r"^[!-~]+$")] | None = Field(
        None, description="The issuer of its tokens (`iss`). Without it: `CALLGATE_WORKLOAD_ISSUER`."
    )


class WorkloadRecord(BaseModel):
    """A service account of Kubernetes that acts for the tenant."""

    id: UUID
    namespace: str
    service_account: str
    issuer: str = Field(description="The issuer of its tokens. The same names in another cluster are another workload.")
    scopes: list[Scope]
    created_at: datetime

    @classmethod
    def of(cls, row: WorkloadRow) -> Self:
        return cls(
            id=row.id,
            namespace=row.namespace,
            service_account=row.service_account,
            issuer=row.issuer,
            scopes=in_order(known_scopes(row.scopes)),
            created_at=row.created_at,
        )


class WorkloadPage(BaseModel):
    workloads: list[WorkloadRecord]
    next_cursor: str | None = Field(description="The `cursor` of the next page, or null on the last one.")
