"""Times in the forms of the console: without script a page does not know the viewer's zone, so they are in UTC."""

from datetime import UTC, datetime
from typing import Final

FORM_TIME: Final = "%Y-%m-%dT%H:%M"
"""The value of an `<input type="datetime-local">`."""


def read_form_time(text: str) -> datetime | None:
    """Returns the time that a field has, in UTC unless it names a zone. None: it is empty. Raises ValueError."""
    if not text:
        return None
    try:
        read = datetime.fromisoformat(text)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(text) from error


def form_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(FORM_TIME)
