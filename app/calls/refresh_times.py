"""Decides when a call's record is next refreshed from Twilio. Does no I/O.

If Twilio's callbacks arrive, a refresh is needed only when a callback is overdue, and for the price, which no callback has.
Many refresh times are rounded up to common times, so that one list request can refresh many calls of an account. The parameter
`interval` is the setting CALLGATE_REFRESH_INTERVAL, the shortest wait between two refreshes.
"""

from datetime import UTC, datetime, timedelta

from app.calls.progress import has_ended_with_price
from app.calls.store import AnyCall
from app.twilio.schemas import TERMINAL_STATUSES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CALLBACK_OVERDUE_INTERVALS = 10
"""A callback that has not arrived after this many refresh intervals is overdue."""
_MAX_WAIT_WITHOUT_CALLBACKS = timedelta(seconds=60)
_MAX_WAIT_WITH_CALLBACKS = timedelta(minutes=10)
_MIN_PRICE_INTERVAL = timedelta(seconds=15)
_MAX_REFRESH_INTERVAL = timedelta(hours=1)
# Twilio queues a call for at most a day, and ends it after a further day. A price comes within minutes or never.
_STOP_REFRESHING_AFTER = timedelta(days=3)
_MAX_PRICE_DELAY = timedelta(days=1)
# Calls that were not answered usually cost nothing.
_MAX_PRICE_DELAY_IF_UNANSWERED = timedelta(minutes=10)
# If Callgate learns nothing about a call for so long, its account or the account's credentials are gone for good.
_MAX_REFRESH_TIME_WITHOUT_RESPONSE = timedelta(days=30)


def delay_until_first_refresh(interval: timedelta, *, expects_callbacks: bool) -> timedelta:
    """Returns the wait from the start of a call until its record is first refreshed from Twilio.

    The wait is longer if Twilio sends callbacks to Callgate.
    """
    return CALLBACK_OVERDUE_INTERVALS * interval if expects_callbacks else interval


def refresh_time_after_callback(call: AnyCall, *, now: datetime, interval: timedelta) -> datetime | None:
    """Returns when to read a started call from Twilio after a callback has updated the record; None if no read is needed."""
    if has_ended_with_price(call):
        return None
    if call.status in TERMINAL_STATUSES:
        return _round_up(now + _MIN_PRICE_INTERVAL, _MIN_PRICE_INTERVAL)
    return now + _wait_time_for_callback(call, now=now, interval=interval)


def refresh_time_after_response(call: AnyCall, *, now: datetime, interval: timedelta) -> datetime | None:
    """Returns when to read a call from Twilio again after Twilio answered the last read; None if no more reads are needed."""
    if has_ended_with_price(call) or _is_too_old_to_refresh(call, now=now):
        return None
    return _next_refresh_at(call, now=now, interval=interval)


def refresh_time_without_response(call: AnyCall, *, now: datetime, interval: timedelta, has_failed: bool) -> datetime | None:
    """Returns when to try again to read a call that could not be read from Twilio; None if no more reads are needed.

    `has_failed` is False if no request was sent for the call, or if Twilio throttled the account. The reads then go on, however
    old the call is, because the next one may be the first that Twilio answers. If `has_failed` is True, they end when the call
    is 30 days old.
    """
    if has_ended_with_price(call) or (has_failed and call_age(call, now=now) >= _MAX_REFRESH_TIME_WITHOUT_RESPONSE):
        return None
    if _is_too_old_to_refresh(call, now=now):
        return _round_up(now + _MAX_REFRESH_INTERVAL, interval)
    return _next_refresh_at(call, now=now, interval=interval)


def _is_too_old_to_refresh(call: AnyCall, *, now: datetime) -> bool:
    """Returns whether the call is so old that Twilio will show nothing new about it: neither its end nor its price."""
    if call.status not in TERMINAL_STATUSES:
        return call_age(call, now=now) >= _STOP_REFRESHING_AFTER
    longest = _MAX_PRICE_DELAY if call.status == "completed" else _MAX_PRICE_DELAY_IF_UNANSWERED
    return call_age(call, now=now, since=call.end_time) >= longest


def _next_refresh_at(call: AnyCall, *, now: datetime, interval: timedelta) -> datetime:
    if call.status in TERMINAL_STATUSES:
        shortest = max(interval, _MIN_PRICE_INTERVAL)
        return _round_up(
            now + _clamp(call_age(call, now=now, since=call.end_time) / 2, shortest, _MAX_REFRESH_INTERVAL), shortest
        )
    if call.callbacks_seen:
        return now + _wait_time_for_callback(call, now=now, interval=interval)
    return _round_up(now + _clamp(call_age(call, now=now) / 4, interval, _MAX_WAIT_WITHOUT_CALLBACKS), interval)


def call_age(call: AnyCall, *, now: datetime, since: datetime | None = None) -> timedelta:
    """Returns how long ago `since` was.

    If `since` is None, counts from `settled_at`, when the outcome was recorded, or else from `created_at`.
    """
    return now - (since or call.settled_at or call.created_at)


def _wait_time_for_callback(call: AnyCall, *, now: datetime, interval: timedelta) -> timedelta:
    """Returns how long to wait for Twilio's next callback before a refresh. The wait is longer for older calls."""
    return _clamp(call_age(call, now=now) / 2, CALLBACK_OVERDUE_INTERVALS * interval, _MAX_WAIT_WITH_CALLBACKS)


def _clamp(wait: timedelta, shortest: timedelta, longest: timedelta) -> timedelta:
    return min(max(wait, shortest), max(longest, shortest))


def _round_up(moment: datetime, step: timedelta) -> datetime:
    """Returns `moment`, rounded up to a multiple of `step` since 1970."""
    return moment + (_EPOCH - moment) % step
