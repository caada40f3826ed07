"""Types of the authenticated client of a request. Checks which scopes a client may give to a new API key or workload."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal
from uuid import UUID

from app.errors import OperatorKeyRequired, ScopeRequired
from app.tenants.scopes import ALL_SCOPES, Scope, sort_scopes

AuthenticationMethod = Literal["key", "workload", "link", "oidc"]
"""How a client was authenticated: by API key, as a workload or, in the console, by one-time link or by OpenID Connect."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that acts for one tenant.

    What `key_id` and `name` are depends on how the client was authenticated:
    - By API key: the id of the key, and its public part, as `callgate keys list` shows it.
    - As a workload: the id of the workload, and its name (`namespace/name`).
    - In the console without a key: the id of the session, and the person who logged in.
    """

    tenant_id: str
    key_id: UUID
    name: str
    suspended: bool
    scopes: frozenset[Scope]
    max_in_flight: int | None = None
    """How many calls one process may be creating at Twilio at a time. None means CALLGATE_MAX_IN_FLIGHT_PER_TENANT."""
    kind: AuthenticationMethod = "key"


@dataclass(frozen=True, slots=True)
class OperatorCaller:
    """A client that acts for an operator of Callgate. It has access to all tenants.

    `key_id` is None on the command line, and for a person who logged in to the console without a key.
    """

    tenant_id: ClassVar[None] = None

    key_id: UUID | None
    name: str
    scopes: frozenset[Scope]
    kind: AuthenticationMethod = "key"


COMMAND_LINE_CALLER: Final = OperatorCaller(None, "command line", ALL_SCOPES)
"""The operator who runs `callgate` commands. A command needs no API key: it has the database's URL and the encryption keys."""


def command_caller(tenant_id: str, *, suspended: bool) -> Caller:
    """Returns a Caller for a command that acts for one tenant. `suspended` says whether the tenant is suspended.

    The Caller of every command has the same `key_id`. Scheduled calls of equal priority are dialled alternately for each
    `key_id` (API key or workload), and all commands together count as one.
    """
    return Caller(tenant_id, UUID(int=0), COMMAND_LINE_CALLER.name, suspended, ALL_SCOPES)


def workload_name(namespace: str, service_account: str) -> str:
    """Returns `namespace/name` of a workload, for logs and the audit log. Workloads of two clusters may have the same name."""
    return f"{namespace}/{service_account}"


def require_grantable_scopes(creator: Caller | OperatorCaller, scopes: frozenset[Scope], *, tenant_id: str | None) -> None:
    """Checks that `creator` may give `scopes` to a new API key or workload of a tenant (of an operator if `tenant_id` is None).

    Raises OperatorKeyRequired if `creator` acts for a tenant and `tenant_id` is not the id of this tenant. Raises ScopeRequired
    if `creator` lacks one of the scopes. One exception: an operator with the scope `admin` may give a tenant's API key or
    workload also scopes that the operator lacks.
    """
    if isinstance(creator, Caller):
        if creator.tenant_id != tenant_id:
            raise OperatorKeyRequired
        own_scopes = creator.scopes
    else:
        own_scopes = ALL_SCOPES if tenant_id is not None and Scope.ADMIN in creator.scopes else creator.scopes
    missing = sort_scopes(scopes - own_scopes)
    if missing:
        raise ScopeRequired(f"Only a key with the scope `{missing[0]}` can give it to another key.", scope=missing[0])
