"""Schemas for the member `pace` of requests and responses."""

from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.scheduling.pace_limits import (
    DEFAULT_BURST,
    MAX_BURST,
    MAX_CALLS_PER_SECOND,
    MAX_CONCURRENT_LIMIT,
    MAX_RATE_DECIMALS,
    PaceChange,
    PaceLimits,
    is_valid_calls_per_second,
    to_int_or_float,
)

_RATE_ERROR_TEXT = f"must be a number of more than 0, at most {MAX_CALLS_PER_SECOND}, with at most {MAX_RATE_DECIMALS} decimals"
_RATE_DESCRIPTION = "Calls that are dialled in one second, on average, such as 1 or 0.5. Null: not limited."
_BURST_DESCRIPTION = f"Calls that may be dialled at once after a pause. Without a value: {DEFAULT_BURST}."
_MAX_CONCURRENT_DESCRIPTION = "Calls that may be under way at the same time. Null: not limited."


def _parse_calls_per_second(value: object) -> Decimal:
    rate = Decimal(str(value)) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if rate is None or not is_valid_calls_per_second(rate):
        raise PydanticCustomError("out_of_range", _RATE_ERROR_TEXT)
    return rate


_RATE_SCHEMA: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_CALLS_PER_SECOND}
PaceRate = Annotated[Decimal, BeforeValidator(_parse_calls_per_second), WithJsonSchema(_RATE_SCHEMA)]
PaceBurst = Annotated[int, Field(ge=1, le=MAX_BURST)]
PaceConcurrency = Annotated[int, Field(ge=1, le=MAX_CONCURRENT_LIMIT)]


class PaceSettings(BaseModel):
    """The dialling limits to set for an account or a queue. Members that are missing stay as they are."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    calls_per_second: PaceRate | None = Field(None, description=_RATE_DESCRIPTION)
    burst: PaceBurst = Field(DEFAULT_BURST, description=_BURST_DESCRIPTION)
    max_concurrent: PaceConcurrency | None = Field(None, description=_MAX_CONCURRENT_DESCRIPTION)

    @property
    def pace_change(self) -> PaceChange:
        """The limits that the request changes; members that are missing in it are left out."""
        given: PaceChange = self.model_dump(exclude_unset=True)  # type: ignore[assignment]
        return given


class PaceRecord(BaseModel):
    """The dialling limits of an account or a queue."""

    calls_per_second: Annotated[float, WithJsonSchema(_RATE_SCHEMA)] | None = Field(description=_RATE_DESCRIPTION)
    burst: int = Field(description=_BURST_DESCRIPTION)
    max_concurrent: int | None = Field(description=_MAX_CONCURRENT_DESCRIPTION)

    @classmethod
    def from_limits(cls, limits: PaceLimits) -> Self:
        rate = limits.calls_per_second
        return cls(
            calls_per_second=None if rate is None else to_int_or_float(rate),
            burst=limits.burst,
            max_concurrent=limits.max_concurrent,
        )
