"""The configuration of a simulator. Delays of answers are not part of it: they are faults (simulator/faults.py)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from simulator.accounts import Account
from simulator.lifecycle import TALKING_RANGE_S
from simulator.limits import AccountLimits

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    speed: float = 1.0
    """The seconds of a call that pass in one second of the clock.

    Durations are reported in seconds of the call: if 15 of them pass in progress, the call has the duration "15" at any speed.
    """
    talking_s: tuple[int, int] = TALKING_RANGE_S
    """The shortest and the longest time from the answer of a call to its end, in seconds of the call (see `speed`)."""
    price_delay_s: float = 10.0
    """The time from the end of a call to its price, in seconds of the call (see `speed`)."""
    open_mode: bool = False
    """Whether an account that is not registered accepts any user and password. Its first request creates the account."""
    accounts: tuple[Account, ...] = ()
    seed: int | None = None
    """With a seed, sids and durations are the same after each start of the simulator. With None they are random.

    Use None if records of calls outlive the simulator, because they need unique sids.
    """
    max_calls: int = 200_000
    """The most calls, and the most ledger entries and deliveries, that stay in memory. The oldest are deleted first."""
    clock: Clock = utc_now
    limits: AccountLimits = field(default_factory=AccountLimits)
    """The limits of each account, until a control route sets other limits for the account."""
    ended_call_code: Literal[21220, 20404] = 21220
    """The error code for a request to end a call that has ended."""

    def __post_init__(self) -> None:
        if self.speed <= 0 or self.price_delay_s < 0 or self.max_calls < 1:
            raise ValueError("speed and max_calls must be positive, price_delay_s not negative")
