"""Times in requests: RFC 3339 with a time zone. Pydantic alone also accepts Unix times, dates and other forms of ISO 8601."""

import re
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Strict
from pydantic_core import PydanticCustomError

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def _rfc_3339(value: Any) -> str:
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise PydanticCustomError("not_rfc_3339", "must be an RFC 3339 time with a time zone, such as 2026-11-28T09:30:00Z")
    return value


# A strict model would take no text otherwise.
Timestamp = Annotated[AwareDatetime, Strict(False), BeforeValidator(_rfc_3339)]
