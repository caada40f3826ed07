"""Describes a delivery in words for the pages: its state, its last error, and whether it can be sent again."""

from datetime import datetime
from typing import Final, Protocol

# docs/callbacks.md explains the words.
_ERROR_TEXTS: Final = {
    "resolve": "the host has no address",
    "refused_address": "its address is not allowed",
    "invalid_url": "the URL is not valid under the present rules",
    "connect": "no connection",
    "tls": "no trusted certificate",
    "timeout": "no answer in time",
    "lost": "the connection broke",
    "secret": "the tenant’s secret cannot be opened",
    "deleted": "the call was deleted before",
}


class DeliveryProgress(Protocol):
    """The fields of a delivery that this module reads. The data classes DeliveryRow and ListedDelivery have them.

    `held` says whether the delivery waits because an earlier event of its call is not delivered yet.
    """

    @property
    def state(self) -> str: ...
    @property
    def attempts(self) -> int: ...
    @property
    def held(self) -> bool: ...
    @property
    def last_attempt_at(self) -> datetime | None: ...


def state_and_note_in_words(delivery: DeliveryProgress) -> tuple[str, str]:
    """Returns the word for the delivery's badge, such as "retrying", and a note, such as "2 attempts failed".

    The note says what the delivery waits for, or how it ended. It may be "".
    """
    if delivery.state == "delivered":
        return "delivered", "" if delivery.attempts == 1 else f"after {_attempt_count_text(delivery.attempts)}"
    if delivery.state == "gave_up":
        return "given_up", f"after {_attempt_count_text(delivery.attempts)}"
    if delivery.held:
        return "waiting", "for an earlier event of its call"
    if delivery.attempts:
        return "retrying", f"{_attempt_count_text(delivery.attempts)} failed"
    return "waiting", "for its first attempt" if delivery.last_attempt_at is None else "to be sent again"


def can_be_sent_again(delivery: DeliveryProgress) -> bool:
    """Returns whether a person may send the delivery again.

    Returns True if the delivery was delivered or given up. Returns True for any other delivery if an attempt to send it has
    failed, and if it does not wait for an earlier event of its call.
    """
    return delivery.state != "pending" or (delivery.attempts > 0 and not delivery.held)


def error_in_words(error: str | None, status: int | None) -> str | None:
    """Returns in words why the last attempt failed; None if it succeeded, or if there was no attempt.

    `error` says why there was no HTTP response, such as "timeout". `status` is the status of the response.
    """
    if error is not None:
        return _ERROR_TEXTS.get(error, error)
    return None if status is None or status < 300 else f"answered {status}"


def _attempt_count_text(number: int) -> str:
    return f"{number} attempt" if number == 1 else f"{number} attempts"
