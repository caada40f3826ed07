"""Which creation gets which fault."""

from random import Random
from typing import Annotated

from pydantic import BaseModel, Field
from pydantic.functional_validators import AfterValidator
from starlette.datastructures import Headers

from simulator.destination import sip_user
from simulator.errors import TwilioError
from simulator.faults import FAULTS, Fault, fault_named

HEADER = "X-Simulator-Fault"
SIP_USER_PREFIX = "fault-"


def _known(text: str) -> str:
    fault_named(text)
    return text


class FaultShare(BaseModel):
    share: float = Field(0, ge=0, le=1, description="Of the creations that nothing else gives a fault to.")
    names: list[Annotated[str, AfterValidator(_known)]] | None = Field(
        None, min_length=1, description="As in the header, `NAME` or `NAME;seconds=n`. Null: all faults."
    )
    seed: int = 0


class FaultChoice:
    def __init__(self) -> None:
        self.share = FaultShare()

    def choose(self, headers: Headers, to: str, nth_to_destination: int) -> tuple[str, Fault] | None:
        """The header decides, then the user of the SIP URI, then chance. Raises 20422 for a name that there is not.

        Chance is a pure function of the seed, `to`, and the how manieth creation to it this is.
        """
        asked = headers.get(HEADER)
        if asked is None:
            user = sip_user(to) or ""
            asked = user.removeprefix(SIP_USER_PREFIX) if user.startswith(SIP_USER_PREFIX) else None
        if asked is None:
            asked = self._draw(to, nth_to_destination)
        if asked is None:
            return None
        try:
            return fault_named(asked)
        except ValueError as error:
            raise TwilioError(20422, str(error)) from None

    def reset(self) -> None:
        self.share = FaultShare()

    def _draw(self, to: str, nth: int) -> str | None:
        if not self.share.share:
            return None
        random = Random(f"{self.share.seed}/{to}/{nth}")  # noqa: S311 - must repeat by seed
        if random.random() >= self.share.share:
            return None
        return random.choice(self.share.names or list(FAULTS))
