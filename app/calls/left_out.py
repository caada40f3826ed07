"""Removes from a JSON object the members whose values other columns hold, and restores the whole object. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ValueOf = Callable[[str], Any]
"""Takes the name of a member of the JSON object, and returns the value that other columns hold for it."""


class LeftOutMembers:
    """The names of the members that may be left out of one kind of JSON object.

    A number is stored beside each object. Its bit n is set if the member `names[n]` was left out. Append new names at the end:
    the order of the existing ones must not change.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.bits: Mapping[str, int] = {name: 1 << number for number, name in enumerate(names)}

    def leave_out(self, whole: Mapping[str, Any], implied: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Returns the members to store, and a number whose bits say which members are left out.

        `implied` holds the values that other columns have, by member. A member is left out if `implied` has the same value for
        it.
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
        """Returns the whole object. `rest` and `left_out` are the values that `leave_out` returned.

        `value_of` returns the value of a member that was left out. The members are in the order of Postgres's `jsonb`.
        """
        names = [name for name, bit in self.bits.items() if left_out & bit and name not in rest]
        return {name: rest[name] if name in rest else value_of(name) for name in sorted([*rest, *names], key=_jsonb_order)}


def _jsonb_order(name: str) -> tuple[int, bytes]:
    """Returns the key by which Postgres sorts the members of a `jsonb`: short names come first."""
    encoded = name.encode()
    return len(encoded), encoded
