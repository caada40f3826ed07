"""Chooses the fault to inject into the creation of a call: by header, by SIP user, or at random."""

from random import Random
from typing import Annotated

from pydantic import BaseModel, Field
from pydantic.functional_validators import AfterValidator
from starlette.datastructures import Headers

from simulator.destination import sip_user
from simulator.errors import TwilioError
from simulator.faults import FAULTS, Fault, parse_fault

FAULT_HEADER = "X-Simulator-Fault"
FAULT_USER_PREFIX = "fault-"


def _require_known_fault(text: str) -> str:
    parse_fault(text)
    return text


class RandomFaultSettings(BaseModel):
    """The share of creations that get a random fault, and the faults to draw from (`PUT /_simulator/faults`)."""

    share: float = Field(
        0,
        ge=0,
        le=1,
        description="The share with a random fault, among creations without one by header or SIP user.",
    )
    names: list[Annotated[str, AfterValidator(_require_known_fault)]] | None = Field(
        None, min_length=1, description="`NAME` or `NAME;seconds=n`, as in the header. Null means all faults."
    )
    seed: int = 0


class FaultChooser:
    """Chooses which fault, if any, is injected into each creation of a call."""

    def __init__(self) -> None:
        self.random_faults = RandomFaultSettings()

    def choose(self, headers: Headers, to: str, nth_to_destination: int) -> tuple[str, Fault] | None:
        """Returns the name of the fault to inject, and the fault; None for no fault.

        The header X-Simulator-Fault names the fault. Without this header, a SIP user `fault-NAME` in `to` names it. Otherwise a
        random fault is drawn for a share of the creations. Raises error 20422 for an unknown name. The random draw depends only
        on the seed, `to` and `nth_to_destination` (the number of the creation among those with this `to`). So every run has the
        same faults.
        """
        requested = headers.get(FAULT_HEADER)
        if requested is None:
            user = sip_user(to) or ""
            requested = user.removeprefix(FAULT_USER_PREFIX) if user.startswith(FAULT_USER_PREFIX) else None
        if requested is None:
            requested = self._draw_random_fault(to, nth_to_destination)
        if requested is None:
            return None
        try:
            return parse_fault(requested)
        except ValueError as error:
            raise TwilioError(20422, str(error)) from None

    def reset(self) -> None:
        self.random_faults = RandomFaultSettings()

    def _draw_random_fault(self, to: str, nth: int) -> str | None:
        if not self.random_faults.share:
            return None
        random = Random(f"{self.random_faults.seed}/{to}/{nth}")  # noqa: S311 - must repeat by seed
        if random.random() >= self.random_faults.share:
            return None
        return random.choice(self.random_faults.names or list(FAULTS))
