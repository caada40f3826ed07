"""Leaves out of a stored JSON object what other columns already hold, and puts it back. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ValueOf = Callable[[str], Any]
"""Returns the value that the columns imply for a member of the JSON object."""


class LeftOut:
    """The members of a kind of JSON object that may be left out.

    What is left out of one object is stored beside it as a number, in which bit n stands for `names[n]`. Names may be appended
    later, but never moved.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.bits: Mapping[str, int] = {name: 1 << number for number, name in enumerate(names)}

    def leave_out(self, whole: Mapping[str, Any], value_of: ValueOf) -> tuple[dict[str, Any], int]:
        """Returns the members to store, and the number of those that are left out, because the columns imply their values."""
        rest, left_out = dict(whole), 0
        for name, bit in self.bits.items():
            if name in rest and _is_same(rest[name], value_of(name)):
                del rest[name]
                left_out |= bit
        return rest, left_out

    def put_back(self, rest: Mapping[str, Any], left_out: int, value_of: ValueOf) -> dict[str, Any]:
        """Returns the whole object, its members in the order in which Postgres keeps them."""
        names = [name for name, bit in self.bits.items() if left_out & bit and name not in rest]
        return {name: rest[name] if name in rest else value_of(name) for name in sorted([*rest, *names], key=_jsonb_order)}


def _is_same(one: Any, other: Any) -> bool:
    """Returns whether both are the same JSON. Python's `==` would take True for 1."""
    return type(one) is type(other) and bool(one == other)


def _jsonb_order(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded
