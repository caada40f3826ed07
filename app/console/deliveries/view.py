"""Turns deliveries into the texts and links that the pages of deliveries show."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from app.console.deliveries.store import MAX_COUNTED_DELIVERIES, ListedDelivery, WaitingDeliverySummary
from app.console.deliveries.texts import can_be_sent_again, error_in_words, state_and_note_in_words
from app.console.masking import mask_url
from app.console.times import read_form_time
from app.http.operations import CONSOLE_PREFIX

DELIVERIES_PATH: Final = f"{CONSOLE_PREFIX}/deliveries"


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """The query of the list's URL: a tenant, a state of deliveries (`waiting` or `given_up`), and the cursor of the page."""

    tenant: str = ""
    state: str = "waiting"
    cursor: str = ""
    sent: int | None = None
    """The number of deliveries that a form has just sent again; None if no form led to this page."""
    since: str = ""
    """The start time to show in the form that sends given-up deliveries again.

    If the previous form has sent as many deliveries as it may, this is the time at which the next form goes on. If the previous
    form found no delivery, this is the time in that form.
    """

    @property
    def done_message(self) -> str | None:
        """What a form that sends deliveries again has done, in words; None if no form has led to this page."""
        if self.sent is None:
            return None
        if not self.sent:
            return "No delivery of an event since then was given up."
        done = f"{self.sent:,} {'delivery is' if self.sent == 1 else 'deliveries are'} sent again now."
        return f"{done} There are more: press the button again to go on." if self.since else done

    def page_url(self, *, state: str | None = None, cursor: str = "") -> str:
        """Returns the URL of a page of this tenant's deliveries. The page begins at `cursor`; "" means the first page.

        `state` is the state of the listed deliveries. If `state` is None, the state in this query is used.
        """
        return delivery_list_url(self.tenant, state or self.state, cursor)

    @property
    def waiting_after(self) -> tuple[datetime, UUID] | None:
        """The `next_attempt_at` and the id of the last waiting delivery on the previous page; None on the first page.

        Raises ValueError if the cursor is malformed.
        """
        if not self.cursor:
            return None
        moment, _, delivery_id = self.cursor.partition("~")
        read = read_form_time(moment)
        if read is None:
            raise ValueError(self.cursor)
        return read, UUID(delivery_id)

    @property
    def given_up_before(self) -> UUID | None:
        """The upper bound (exclusive) of the ids of the given-up deliveries on the page; None on the first page.

        Raises ValueError if the cursor is malformed.
        """
        return UUID(self.cursor) if self.cursor else None


def delivery_list_url(tenant_id: str, state: str, cursor: str = "", *, sent: int | None = None, since: str = "") -> str:
    """Returns the URL of a page of the tenant's list of deliveries. The page begins at `cursor`; "" means the first page.

    `state` is `waiting` or `given_up`. `sent` and `since` are described at the fields of DeliveryQuery with these names.
    """
    given = {"tenant": tenant_id, "state": state, "cursor": cursor, "since": since}
    if sent is not None:
        given["sent"] = str(sent)
    return f"{DELIVERIES_PATH}?{urlencode({name: value for name, value in given.items() if value})}"


def cursor_after_delivery(line: ListedDelivery) -> str:
    """Returns the cursor of the next page of waiting deliveries. `line` is the last one on the current page."""
    return "" if line.next_attempt_at is None else f"{line.next_attempt_at.isoformat()}~{line.id}"


@dataclass(frozen=True, slots=True)
class DeliveryItem:
    """A delivery, as a line of the tenant's list of deliveries."""

    line: ListedDelivery
    state: str
    """The word in the delivery's badge, such as `retrying`."""
    note: str
    """What the delivery waits for, or how it ended."""
    last_error: str | None
    target: str | None
    can_be_sent_again: bool

    @classmethod
    def from_delivery(cls, line: ListedDelivery) -> "DeliveryItem":
        return cls(
            line,
            *state_and_note_in_words(line),
            last_error=error_in_words(line.last_error, line.last_status),
            target=None if line.url is None else mask_url(line.url),
            can_be_sent_again=line.has_call and can_be_sent_again(line),
        )


@dataclass(frozen=True, slots=True)
class BacklogItem:
    """A tenant and its waiting deliveries, as a line of the operators' overview."""

    tenant_id: str
    waiting: str
    retried: str
    oldest: datetime
    last_error: str | None

    @classmethod
    def from_backlog(cls, backlog: WaitingDeliverySummary) -> "BacklogItem":
        error = backlog.last_error
        is_status = error is not None and error.isdigit()
        return cls(
            backlog.tenant_id,
            waiting=_count_or_more_text(backlog.waiting, backlog),
            retried=_count_or_more_text(backlog.retried, backlog),
            oldest=backlog.oldest,
            last_error=error_in_words(None, int(error)) if error and is_status else error_in_words(error, None),
        )


def _count_or_more_text(number: int, backlog: WaitingDeliverySummary) -> str:
    """Returns the number as text, with a "+" if there may be more because counting stopped at MAX_COUNTED_DELIVERIES."""
    return f"{number:,}+" if backlog.waiting >= MAX_COUNTED_DELIVERIES and number else f"{number:,}"
