"""Faults by which callbacks are sent late, out of order, twice or never. Twilio guarantees neither delivery nor order."""

from dataclasses import dataclass
from random import Random
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from simulator.store import Call
from simulator.subscription import CallEvent

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


def _require_ascending(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError("must go from the shorter to the longer")
    return span


SecondsRange = Annotated[tuple[Seconds, Seconds], AfterValidator(_require_ascending)]
"""The shortest and the longest value of a random time, in seconds."""


@dataclass(frozen=True, slots=True)
class CallbackFaults:
    """The faults of a callback: whether it is sent after a later one (`held_back`), twice or never (`lost`), and its delay."""

    held_back: bool = False
    lost: bool = False
    duplicated: bool = False
    delay_s: float = 0


NO_CALLBACK_FAULTS = CallbackFaults()


class CallbackFaultSettings(BaseModel):
    """The faults of callbacks (`PUT /_simulator/callbacks`): the share with each fault, and the delays."""

    shuffle: bool = Field(False, description="Send half of the callbacks after a later one of their call.")
    duplicate: Probability = Field(0, description="The share of callbacks that are sent twice.")
    lose: Probability = Field(0, description="The share of callbacks that are never sent.")
    delay_s: SecondsRange = Field((0, 0), description="The shortest and the longest delay, in seconds of the clock.")
    overlap: bool = Field(False, description="Send the callbacks of a call, and duplicates, without waiting for earlier ones.")
    seed: int = 0

    @property
    def has_no_faults(self) -> bool:
        return not (self.shuffle or self.duplicate or self.lose or any(self.delay_s))

    def draw_callback_faults(self, call: Call, event: CallEvent) -> CallbackFaults:
        """Returns the faults of the callback for an event of the call, drawn at random.

        The draw depends only on the seed, the call's `to`, the number of the call among those with this `to`, and the event. So
        every run draws the same faults.
        """
        if self.has_no_faults:
            return NO_CALLBACK_FAULTS
        random = Random(f"{self.seed}/{call.parameters.to}/{call.nth_to_destination}/{event}")  # noqa: S311 - repeats by seed
        held_back, lost, duplicated = random.random(), random.random(), random.random()
        return CallbackFaults(
            held_back=self.shuffle and held_back < 0.5,
            lost=lost < self.lose,
            duplicated=duplicated < self.duplicate,
            delay_s=random.uniform(*self.delay_s),
        )
