"""What an API key or a workload may do."""

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A permission of a client. No scope includes another."""

    CALL = "call"
    """Place, change and delete calls, and send deliveries again."""
    READ = "read"
    """Read records."""
    ADMIN = "admin"
    """Manage accounts and keys of the client's own tenant. With an operator's key: all tenants, accounts and keys."""


ALL_SCOPES: Final = frozenset(Scope)
DEFAULT_SCOPES: Final = frozenset({Scope.CALL, Scope.READ})
"""The scopes of a tenant's key that is created without scopes. The column's default is the same (migration 0020)."""


def known_scopes(stored: Iterable[str]) -> frozenset[Scope]:
    """Returns the scopes of a row, without scopes that this version of Callgate does not know."""
    return frozenset(scope for scope in Scope if scope in set(stored))


def in_order(scopes: Collection[Scope]) -> list[Scope]:
    """Returns the scopes in the order of their definition, as they are stored and shown."""
    return [scope for scope in Scope if scope in scopes]
