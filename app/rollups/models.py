"""Tables for figures about calls (counts, latencies, prices) of each minute and hour, and for the progress of counting them."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import CheckConstraint, Index, Integer, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.database.base import Base

ALL_TENANTS: Final = ""
"""The `tenant_id` of the rows that hold the figures of all tenants together."""

HAS_CALLBACK_SQL: Final = "execution = 'started' AND cardinality(callbacks_seen) > 0"
"""SQL condition on a row of `call`: the call was started, and at least one callback has arrived."""


def callback_missing_sql(has_public_url: str) -> str:
    """Returns an SQL condition on a row of `call`: the call was started, and an expected callback has not arrived.

    No callback is expected if Callgate has no public URL, if the call has an `application_sid`, or if its account has no auth
    token (app.calls.status_callbacks). `has_public_url` is SQL, such as `$1`, and says whether Callgate has a public URL.
    """
    return f"""
        {has_public_url}::boolean AND execution = 'started' AND cardinality(callbacks_seen) = 0
        AND NOT parameters ? 'application_sid'
        AND account_id IN (SELECT account_id FROM twilio_credential WHERE kind = 'auth_token' AND revoked_at IS NULL)
    """  # noqa: S608  # no values of requests


PRICE_GIVEN_UP_SQL: Final = "status = 'completed' AND price IS NULL AND refresh_at IS NULL AND deleted_at IS NULL"
"""SQL condition on a row of `call`: the call is completed, has no price, and is not read from Twilio again."""

CANCELED_SQL: Final = "settled_by IS NOT DISTINCT FROM 'canceled'"
"""SQL condition on a row of `call`: somebody canceled the call before it was dialled.

Its `execution` is `not_started`.
"""


class Rollup(Base):
    """Figures about the calls that one tenant, or all tenants together, requested in one minute or hour.

    A worker counts the figures again from the calls, at growing intervals, and replaces the old figures.
    """

    __tablename__ = "rollup"
    __table_args__ = (CheckConstraint("seconds IN (60, 3600)", name="seconds"), Index(None, "seconds", "start"))

    tenant_id: Mapped[str] = mapped_column(Text, primary_key=True)
    # The length of the period.
    seconds: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    start: Mapped[datetime] = mapped_column(primary_key=True)

    # Calls that were requested in the period, by their current execution.
    scheduled: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    pending: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    started: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    not_started: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    unknown: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Calls that somebody canceled before they were dialled. They are also counted in `not_started`.
    canceled: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Calls that Twilio answered with a 5xx.
    server_errors: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Callbacks of the calls that were requested in the period, and the number of started calls that have had a callback.
    callbacks: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    called_back: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Started calls that have had no callback, although Callgate expects some.
    callback_missing: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # Completed calls without a price, and those of them that are not read from Twilio again.
    unpriced: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    price_given_up: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # The sum of the known prices by currency, as positive amounts.
    spent: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    # Calls by the time from the intent to Twilio's answer, in the buckets of LATENCY_BOUNDS_MS.
    latency: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))

    # Deliveries that were written in the period, by their current state.
    delivered: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    gave_up: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    undelivered: Mapped[int] = mapped_column(Integer, server_default=text("0"))

    # The largest number of waiting scheduled calls that was counted in the period; null: none was counted.
    waiting: Mapped[int | None] = mapped_column(Integer)


class RollupProgress(Base):
    """The time up to which figures are counted. The table has a single row, which a worker locks while it counts."""

    __tablename__ = "rollup_progress"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default=text("1"))
    # The figures of all periods that were due at this time are counted.
    rolled_until: Mapped[datetime]
