"""When Twilio does not know a call that has started: not to be seen yet, or deleted."""

from datetime import UTC, datetime, timedelta

from app.calls.models import Call
from app.twilio.errors import TwilioError, TwilioNotFound
from app.twilio.schemas import TERMINAL_STATUSES

# The resource is eventually consistent: a fresh call may not be found yet. Only a call that has ended can be deleted.
_GONE_AFTER = timedelta(hours=1)
_GONE_AFTER_IF_ENDED = timedelta(minutes=1)


def is_missing(error: TwilioError) -> bool:
    """Whether Twilio itself says that there is no such call; a proxy's 404 says nothing."""
    return isinstance(error, TwilioNotFound)


def is_gone(call: Call, error: TwilioError) -> bool:
    """Whether the call is missing for so long that it was deleted: there is nothing more to ask for."""
    patience = _GONE_AFTER_IF_ENDED if call.status in TERMINAL_STATUSES else _GONE_AFTER
    return is_missing(error) and datetime.now(UTC) - (call.settled_at or call.created_at) > patience
