"""The configuration of a simulator."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from simulator.accounts import Account
from simulator.lifecycle import TALKING_S
from simulator.limits import Limits

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    speed: float = 1.0
    """Call seconds per second of the clock. Durations are reported in call seconds: a call with 15 of them in
    progress has the duration "15" at any speed."""
    talking_s: tuple[int, int] = TALKING_S
    """The fewest and the most call seconds from the answer of a call to its end."""
    price_delay_s: float = 10.0
    """Call seconds from the end of a call to its price."""
    open_mode: bool = False
    """Accept any user and password for an account that is not registered; it is created on first use."""
    accounts: tuple[Account, ...] = ()
    seed: int | None = None
    """Makes sids and durations the same after each start. Leave it None if records are kept across restarts: they
    need unique sids."""
    max_calls: int = 200_000
    """The limit of calls, and of ledger entries, in memory. The oldest are dropped first."""
    clock: Clock = utc_now
    limits: Limits = field(default_factory=Limits)
    """The limits of each account, until a control route sets others for it."""

    def __post_init__(self) -> None:
        if self.speed <= 0 or self.price_delay_s < 0 or self.max_calls < 1:
            raise ValueError("speed and max_calls must be positive, price_delay_s not negative")
