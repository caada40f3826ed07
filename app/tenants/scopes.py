"""The permissions (scopes) of API keys and workloads."""

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A permission of a client. No scope includes another."""

    CALL = "call"
    """Permission to place, change and delete calls, to change queues, and to send deliveries (webhooks) again."""
    READ = "read"
    """Permission to read calls, queues and deliveries. An operator with this scope may also read the data of the admin API."""
    ADMIN = "admin"
    """Permission to manage the client's own tenant with its accounts and keys or, for an operator, all tenants."""


ALL_SCOPES: Final = frozenset(Scope)
DEFAULT_SCOPES: Final = frozenset({Scope.CALL, Scope.READ})
"""The scopes of a tenant's key or workload if none are requested. The column `api_key.scopes` has the same default."""


def known_scopes(stored: Iterable[str]) -> frozenset[Scope]:
    """Returns the stored scopes as a set. Leaves out scopes that this version of Callgate does not know."""
    return frozenset(scope for scope in Scope if scope in set(stored))


def sort_scopes(scopes: Collection[Scope]) -> list[Scope]:
    """Returns the scopes in the order of their definition, as they are stored and shown."""
    return [scope for scope in Scope if scope in scopes]
