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
    """Manage tenants, accounts and keys: those of the own tenant, or with an operator's key those of every tenant."""


ALL_SCOPES: Final = frozenset(Scope)
DEFAULT_SCOPES: Final = frozenset({Scope.CALL, Scope.READ})
"""The scopes of a tenant's key that is created without scopes. The column's default is the same (migration 0020)."""


def known_scopes(stored: Iterable[str]) -> frozenset[Scope]:
    """Returns the scopes of a row, without those that only a newer version knows."""
    return frozenset(scope for scope in Scope if scope in set(stored))


def in_order(scopes: Collection[Scope]) -> list[Scope]:
    """Returns the scopes in the order of their definition, as they are stored and shown."""
    return [scope for scope in Scope if scope in scopes]
