"""The dialling limits of a Twilio account in a declaration (a file for `callgate apply`)."""

from pydantic import Field

from app.apply.members import DeclarationModel, Nullable, Omittable
from app.scheduling.pace_limits import MAX_RATE_DECIMALS, PaceChange
from app.scheduling.pace_schemas import PaceBurst, PaceConcurrency, PaceRate


class DeclaredPace(DeclarationModel):
    """How fast the account's calls are dialled, and how many may be under way. null removes all limits."""

    calls_per_second: Nullable[PaceRate] = Field(
        None, description=f"Calls dialled in one second, on average; at most {MAX_RATE_DECIMALS} decimals. null: not limited."
    )
    burst: Omittable[PaceBurst] = Field(
        None, description="Calls that may be dialled at once after a pause; with calls_per_second."
    )
    max_concurrent: Nullable[PaceConcurrency] = Field(
        None, description="Calls that may be under way at the same time. null: not limited."
    )

    @property
    def pace_change(self) -> PaceChange:
        """The changes to the limits. They contain only the limits that are present in the file."""
        given: PaceChange = self.model_dump(exclude_unset=True)  # type: ignore[assignment]
        return given
