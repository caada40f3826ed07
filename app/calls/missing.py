"""Interprets a 404 from Twilio for a started call: not visible yet, or deleted."""

from datetime import UTC, datetime, timedelta

from app.calls.store import AnyCall
from app.twilio.errors import TwilioError, TwilioNotFound
from app.twilio.schemas import TERMINAL_STATUSES

# The resource is eventually consistent: a new call may not be found yet. Only a call that has ended can be deleted.
_GONE_AFTER = timedelta(hours=1)
_GONE_AFTER_IF_ENDED = timedelta(minutes=1)


def is_missing(error: TwilioError) -> bool:
    """Returns whether Twilio itself says that the call does not exist; a proxy's 404 does not count."""
    return isinstance(error, TwilioNotFound)


def is_gone(call: AnyCall, error: TwilioError) -> bool:
    """Returns whether the call was deleted: Twilio answers 404, and a call that started so long ago would be visible."""
    limit = _GONE_AFTER_IF_ENDED if call.status in TERMINAL_STATUSES else _GONE_AFTER
    return is_missing(error) and datetime.now(UTC) - (call.settled_at or call.created_at) > limit
