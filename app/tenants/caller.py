"""The authenticated client of a request, and which scopes it may give to others."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal
from uuid import UUID

from app.errors import OperatorKeyRequired, ScopeRequired
from app.tenants.scopes import ALL_SCOPES, Scope, in_order

CallerKind = Literal["key", "workload", "link", "oidc"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that acts for one tenant.

    `name` is the public part of its key, as `callgate keys list` shows it, or that of its workload (`namespace/name`). `key_id`
    is the id of the key or the workload; of a person in the console who logged in without a key, that of the session.
    """

    tenant_id: str
    key_id: UUID
    name: str
    suspended: bool
    scopes: frozenset[Scope]
    max_in_flight: int | None = None
    """The tenant's own limit of creations that one process sends to Twilio at the same time."""
    kind: CallerKind = "key"


@dataclass(frozen=True, slots=True)
class OperatorCaller:
    """A client that acts across tenants and for none of them.

    `key_id` is None on the command line, and for a person who logged in to the console without a key.
    """

    tenant_id: ClassVar[None] = None

    key_id: UUID | None
    name: str
    scopes: frozenset[Scope]
    kind: CallerKind = "key"


COMMAND_LINE: Final = OperatorCaller(None, "command line", ALL_SCOPES)
"""The operator who runs commands, with the database's URL and the encryption keys."""


def command_caller(tenant_id: str, *, suspended: bool) -> Caller:
    """Returns the command line as a caller that acts for one tenant. All commands take one turn among its callers."""
    return Caller(tenant_id, UUID(int=0), COMMAND_LINE.name, suspended, ALL_SCOPES)


def workload_name(namespace: str, service_account: str) -> str:
    """Returns the name of a workload in logs and in the audit log. Nothing is looked up by it."""
    return f"{namespace}/{service_account}"


def require_grantable(creator: Caller | OperatorCaller, scopes: frozenset[Scope], *, tenant_id: str | None) -> None:
    """Raises ScopeRequired unless `creator` may give `scopes` to a client of this tenant; without a tenant, to an operator's.

    Raises OperatorKeyRequired if `creator` is another tenant's client, or a tenant's and the new client an operator's. A client
    cannot give a scope that it lacks. An operator's `admin` includes every scope within a tenant.
    """
    if isinstance(creator, Caller):
        if creator.tenant_id != tenant_id:
            raise OperatorKeyRequired
        held = creator.scopes
    else:
        held = ALL_SCOPES if tenant_id is not None and Scope.ADMIN in creator.scopes else creator.scopes
    missing = in_order(scopes - held)
    if missing:
        raise ScopeRequired(f"Only a key with the scope `{missing[0]}` can give it to another key.", scope=missing[0])
