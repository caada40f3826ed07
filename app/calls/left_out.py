"""Shortens a JSON object before it is stored, and restores the whole object after it is read. Does no I/O.

Other columns of the database already hold the values of some members. These members are left out of the stored object.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

MemberValueGetter = Callable[[str], Any]
"""A function that returns the value that other columns hold for a left-out member. It takes the name of the member."""


class OmissibleMembers:
    """The names of the members that may be left out of one kind of JSON object, such as the fields of a callback.

    A number is stored beside each object. Bit n of the number is 1 if the member `names[n]` was left out. Add a new name only
    at the end of `names`, so that the bits of stored numbers keep their meaning.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.bits: Mapping[str, int] = {name: 1 << number for number, name in enumerate(names)}

    def leave_out_members(self, whole: Mapping[str, Any], implied: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Returns the members to store, and a number whose bits say which members are left out.

        `implied` maps the names of members to the values that other columns hold. Leaves out a member if its value in `implied`
        is equal and has the same type.
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

    def put_back_members(self, rest: Mapping[str, Any], left_out: int, value_of: MemberValueGetter) -> dict[str, Any]:
        """Returns the whole object. `rest` and `left_out` are the two values that `leave_out_members` returned.

        `value_of` returns the value of a member that was left out. The members of the result are in the order of Postgres's
        `jsonb`.
        """
        names = [name for name, bit in self.bits.items() if left_out & bit and name not in rest]
        return {name: rest[name] if name in rest else value_of(name) for name in sorted([*rest, *names], key=_jsonb_sort_key)}


def _jsonb_sort_key(name: str) -> tuple[int, bytes]:
    """Returns a key that sorts the names of members as Postgres's `jsonb` does: by length in bytes, then by bytes."""
    encoded = name.encode()
    return len(encoded), encoded
