"""The type of times in requests: RFC 3339 with a time zone. Pydantic alone also accepts Unix times, dates and other formats."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Strict
from pydantic_core import PydanticCustomError

_RFC_3339_PATTERN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def _require_rfc_3339(value: Any) -> str:
    if not isinstance(value, str) or not _RFC_3339_PATTERN.fullmatch(value):
        raise PydanticCustomError("not_rfc_3339", "must be an RFC 3339 time with a time zone, such as 2026-11-28T09:30:00Z")
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("out_of_range", "must be within the years 1 to 9999 in UTC") from None


# `Strict(False)`, because models in strict mode accept no texts for times.
Timestamp = Annotated[AwareDatetime, Strict(False), BeforeValidator(_require_rfc_3339), AfterValidator(_to_utc)]
"""A pydantic type for a time in a request: accepts only RFC 3339 text with a time zone, and converts the time to UTC."""
