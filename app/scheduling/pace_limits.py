"""The limits of a pace: how fast an account or a queue dials, and how many of its calls may be under way. No I/O."""

from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Final, Self, TypedDict

from app.tenants.errors import InvalidValue

MAX_CALLS_PER_SECOND: Final = 1_000
MAX_RATE_DECIMALS: Final = 3
DEFAULT_BURST: Final = 2
MAX_BURST: Final = 1_000
MAX_CONCURRENT_LIMIT: Final = 100_000


class PaceChange(TypedDict, total=False):
    """Changes to dialling limits. A limit whose key is missing stays as it is; None removes the limit.

    `burst` is never None.
    """

    calls_per_second: Decimal | None
    burst: int
    max_concurrent: int | None


@dataclass(frozen=True, slots=True)
class PaceLimits:
    calls_per_second: Decimal | None = None
    """The highest average number of calls dialled in a second, with at most three decimals. None means no limit."""
    burst: int = DEFAULT_BURST
    """The number of calls that may be dialled at once after a time without calls. Has no effect without `calls_per_second`."""
    max_concurrent: int | None = None
    """The highest number of calls under way at the same time. None means that there is no limit."""

    @property
    def is_limited(self) -> bool:
        return self.calls_per_second is not None or self.max_concurrent is not None

    def to_json(self) -> dict[str, int | float | None]:
        rate = self.calls_per_second
        return {
            "calls_per_second": None if rate is None else to_int_or_float(rate),
            "burst": self.burst,
            "max_concurrent": self.max_concurrent,
        }

    def with_changes(self, change: PaceChange) -> Self:
        """Returns the limits after the change. If they have no `calls_per_second`, `burst` is set to its default.

        Raises InvalidValue for a value out of bounds, and for a `burst` in the change that is not the default, if there is no
        `calls_per_second` after the change.
        """
        changed = replace(self, **change)
        if changed.calls_per_second is None:
            if change.get("burst", DEFAULT_BURST) != DEFAULT_BURST:
                raise InvalidValue("/pace/burst", "missing", "a burst needs calls_per_second")
            changed = replace(changed, burst=DEFAULT_BURST)
        changed._require_within_bounds()
        return changed

    def names_of_differing_limits(self, other: Self) -> list[str]:
        return [member.name for member in fields(self) if getattr(self, member.name) != getattr(other, member.name)]

    def _require_within_bounds(self) -> None:
        """Raises InvalidValue for a limit that is out of bounds."""
        if self.calls_per_second is not None and not is_valid_calls_per_second(self.calls_per_second):
            message = (
                f"calls per second are more than 0, at most {MAX_CALLS_PER_SECOND}, with at most {MAX_RATE_DECIMALS} decimals"
            )
            raise InvalidValue("/pace/calls_per_second", "out_of_range", message)
        if not 1 <= self.burst <= MAX_BURST:
            raise InvalidValue("/pace/burst", "out_of_range", f"a burst is between 1 and {MAX_BURST}")
        if self.max_concurrent is not None and not 1 <= self.max_concurrent <= MAX_CONCURRENT_LIMIT:
            message = f"the limit of concurrent calls is between 1 and {MAX_CONCURRENT_LIMIT}"
            raise InvalidValue("/pace/max_concurrent", "out_of_range", message)


UNLIMITED_PACE: Final = PaceLimits()


def is_valid_calls_per_second(value: Decimal) -> bool:
    """Returns whether the value is more than 0, at most MAX_CALLS_PER_SECOND, and has at most MAX_RATE_DECIMALS decimals."""
    return value.is_finite() and 0 < value <= MAX_CALLS_PER_SECOND and value == round(value, MAX_RATE_DECIMALS)


def to_int_or_float(value: Decimal) -> int | float:
    """Returns the value as an int if it is whole, otherwise as a float. So it is shown without trailing zeros: 1, not 1.000."""
    return int(value) if value == int(value) else float(value)
