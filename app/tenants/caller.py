"""The authenticated client of a request."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated client of a request. It acts for one tenant."""

    tenant_id: str
    key_id: UUID
    suspended: bool
