"""What can be made to go wrong with callbacks, which Twilio promises neither to deliver nor to order."""

from random import Random
from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from simulator.store import Call
from simulator.subscription import Event

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class Fate(BaseModel):
    """Of one callback."""

    held_back: bool = False
    lost: bool = False
    duplicated: bool = False
    delay_s: float = 0


class Chaos(BaseModel):
    shuffle: bool = Field(False, description="Half of the callbacks are sent after a later one of their call.")
    duplicate: Share = Field(0, description="This share is sent twice.")
    lose: Share = Field(0, description="This share is never sent.")
    delay_s: tuple[Seconds, Seconds] = Field((0, 0), description="From, to: seconds of the clock.")
    seed: int = 0

    @model_validator(mode="after")
    def _is_in_order(self) -> "Chaos":
        if self.delay_s[0] > self.delay_s[1]:
            raise ValueError("delay_s must go from the shorter to the longer")
        return self

    def fate(self, call: Call, event: Event) -> Fate:
        """A pure function of the seed, the destination, the how manieth creation to it this was, and the event."""
        random = Random(f"{self.seed}/{call.parameters.to}/{call.nth_to_destination}/{event}")  # noqa: S311 - repeats by seed
        held_back, lost, duplicated = random.random(), random.random(), random.random()
        return Fate(
            held_back=self.shuffle and held_back < 0.5,
            lost=lost < self.lose,
            duplicated=duplicated < self.duplicate,
            delay_s=random.uniform(*self.delay_s),
        )
