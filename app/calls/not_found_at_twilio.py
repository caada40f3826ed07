"""Decides what a 404 from Twilio for a started call means: Twilio does not show the new call yet, or the call was deleted."""

from datetime import datetime, timedelta

from app.calls.store import AnyCall
from app.twilio.errors import TwilioError, TwilioNotFound
from app.twilio.schemas import TERMINAL_STATUSES

# The resource is eventually consistent: a new call may not be found yet. Only a call that has ended can be deleted.
_MAX_VISIBILITY_DELAY = timedelta(hours=1)
_MAX_VISIBILITY_DELAY_IF_ENDED = timedelta(minutes=1)


def is_call_not_found(error: TwilioError) -> bool:
    """Returns whether Twilio itself says that the call does not exist; a proxy's 404 does not count."""
    return isinstance(error, TwilioNotFound)


def is_deleted_at_twilio(call: AnyCall, error: TwilioError, *, now: datetime) -> bool:
    """Returns whether the call was deleted at Twilio: `error` is a 404 for a call that Twilio must know by now.

    Twilio may not show a new call at once. The call must therefore have been recorded as started more than an hour ago, or more
    than a minute ago if it has ended. `now` is the time by Postgres's clock, which dates the records.
    """
    limit = _MAX_VISIBILITY_DELAY_IF_ENDED if call.status in TERMINAL_STATUSES else _MAX_VISIBILITY_DELAY
    return is_call_not_found(error) and now - (call.settled_at or call.created_at) > limit


def may_be_found_later(call: AnyCall, error: TwilioError, *, now: datetime) -> bool:
    """Returns whether `error` is a 404 for a call that Twilio may not show yet, so that the same request may work later."""
    return is_call_not_found(error) and not is_deleted_at_twilio(call, error, now=now)
