"""Reads and formats times in forms. The times are in UTC: a page without script does not know the viewer's time zone."""

from datetime import UTC, datetime
from typing import Final

FORM_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M"
"""The format of the value of an `<input type="datetime-local">`, for strftime."""


def read_form_time(text: str) -> datetime | None:
    """Returns the time in a form's field, in UTC; None if the field is empty. Raises ValueError if the text is not a time.

    A text without a time zone is taken as UTC.
    """
    if not text:
        return None
    try:
        read = datetime.fromisoformat(text)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(text) from error


def format_form_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(FORM_TIME_FORMAT)
