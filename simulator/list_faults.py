"""Faults of lists: Twilio's list is eventually consistent, its pages move while they are read, and its rate is limited."""

from datetime import datetime, timedelta
from random import Random
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from simulator.accounts import ACCOUNT_SID_PATTERN
from simulator.callback_faults import Probability, SecondsRange
from simulator.errors import TwilioError
from simulator.store import Call

AccountSid = Annotated[str, StringConstraints(pattern=f"^{ACCOUNT_SID_PATTERN.pattern}$")]


class ListFaults(BaseModel):
    """Settings that make lists of calls wrong or late, as Twilio's can be. `PUT /_simulator/listing` sets them.

    By default, a list shows all calls in their current state. All times are seconds of the simulator's clock.
    """

    model_config = ConfigDict(extra="forbid")

    lag_s: SecondsRange = Field((0, 0), description="How long a new call is missing from lists: shortest and longest time.")
    stale_s: SecondsRange = Field((0, 0), description="The age of the state in which a call is listed and filtered.")
    omit_share: Probability = Field(0, description="The share of calls that are missing from a page.")
    moving_pages: bool = Field(
        False, description="Count pages from the newest call at the time of each request, whatever the page token."
    )
    max_per_s: dict[AccountSid, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="List requests a second by account. Further requests are refused with 429."
    )
    retry_after_s: int | None = Field(None, ge=0, description="The header Retry-After of these refusals.")
    seed: int = 0


class ListFaultInjector:
    """The settings of list faults, and what is needed to apply them.

    This is the number of list requests, and the time at which the last request of each account was accepted.
    """

    def __init__(self, faults: ListFaults | None = None) -> None:
        self.faults = faults or ListFaults()
        self._request_count = 0
        self._admitted_at: dict[str, datetime] = {}

    def require_allowed_rate(self, account_sid: str, now: datetime) -> None:
        """Raises error 20429 if the account sends list requests faster than `max_per_s` allows."""
        allowed = self.faults.max_per_s.get(account_sid)
        if allowed is None:
            return
        last = self._admitted_at.get(account_sid)
        if allowed == 0 or (last is not None and now < last + timedelta(seconds=1 / allowed)):
            raise TwilioError(20429, retry_after_s=self.faults.retry_after_s)
        self._admitted_at[account_sid] = now

    def draw_request_faults(self, now: datetime) -> "ListRequestFaults":
        """Counts one more list request, at the time `now`, and returns the faults of the answer to this request."""
        self._request_count += 1
        return ListRequestFaults(self.faults, self._request_count, now)


class ListRequestFaults:
    """The faults of the answer to one list request: which calls are missing, and how old the shown state of each call is.

    The random draws depend on the seed and on the number of the request.
    """

    def __init__(self, faults: ListFaults, number: int, now: datetime) -> None:
        self.now = now
        self.has_moving_pages = faults.moving_pages
        self._faults = faults
        is_wrong = faults.omit_share or any(faults.lag_s) or any(faults.stale_s)
        self._random = Random(f"{faults.seed}/{number}") if is_wrong else None  # noqa: S311 - repeats by seed

    def time_of_shown_state(self, call: Call) -> datetime | None:
        """Returns the time at which the call had the state that the list shows; None if the list omits the call."""
        if self._random is None:
            return self.now if call.is_visible(self.now) else None
        is_omitted = self._random.random() < self._faults.omit_share
        lag, stale = (timedelta(seconds=self._random.uniform(*span)) for span in (self._faults.lag_s, self._faults.stale_s))
        moment = self.now - stale
        is_listed = call.plan.created_at <= min(moment, self.now - lag) and call.is_visible(moment)
        return moment if is_listed and not is_omitted else None
