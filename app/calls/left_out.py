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

    def leave_out(self, whole: Mapping[str, Any], implied: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Returns the members to store, and the number of those that are left out.

        `implied` holds the values that the columns imply. A member is left out if its value is the same JSON.
        """
        rest, left_out = dict(whole), 0
        for name, bit in self.bits.items():
            if name in rest and name in implied:
                value, other = rest[name], implied[name]
                # Compares types too, because Python's `==` takes True for 1.
                if type(value) is type(other) and value == other:
                    del rest[name]
                    left_out |= bit
        return rest, left_out

    def put_back(self, rest: Mapping[str, Any], left_out: int, value_of: ValueOf) -> dict[str, Any]:
        """Returns the whole object, its members in the order in which Postgres keeps them."""
        names = [name for name, bit in self.bits.items() if left_out & bit and name not in rest]
        return {name: rest[name] if name in rest else value_of(name) for name in sorted([*rest, *names], key=_jsonb_order)}


def _jsonb_order(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded
