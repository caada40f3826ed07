"""SQL queries of the jobs: which jobs have due work, and which records belong to calls in Twilio's list."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple

from app.calls.models import MAY_HAVE_STARTED_SQL
from app.database.engine import Database

_JOBS_WITH_DUE_WORK = """
    SELECT EXISTS (SELECT FROM call WHERE refresh_at <= now()) AS refresh,
        EXISTS (SELECT FROM call WHERE execution = 'pending' AND pending_since < now() - $1::interval) AS abandoned,
        EXISTS (SELECT FROM call WHERE search_at <= now()) AS search,
        EXISTS (SELECT FROM wanted_update WHERE due_at <= now()) AS control,
        EXISTS (SELECT FROM dial_slot WHERE ring_by <= now()) AS deadlines,
        EXISTS (SELECT FROM scheduled_dial) AS dial,
        EXISTS (SELECT FROM delivery WHERE next_attempt_at <= now()) AS deliver
"""

# An address with a percent escape has a second key, which is not stored (app.twilio.addresses.possible_address_keys). Rows
# written by an older version have no key.
_MATCHING_RECORDS = f"""
    SELECT (SELECT min(created_at) FROM twilio_account WHERE account_sid = $1) AS account_added_at,
        ARRAY(SELECT sid FROM call WHERE sid = ANY ($2::text[])) AS sids,
        ARRAY(
            SELECT "to" FROM call WHERE account_sid = $1 AND {MAY_HAVE_STARTED_SQL}
            AND (address_key = ANY ($3::text[]) OR address_key IS NULL OR strpos("to", '%') > 0)
        ) AS open_addresses
"""  # noqa: S608  # our own names


async def jobs_with_due_work(database: Database, *, abandoned_after: timedelta) -> set[str]:
    """Returns the names of the worker's jobs that have something to do now.

    `abandoned_after` is the longest time that a process works on a creation. A record that is pending for longer is abandoned,
    and the job `abandoned` marks it as `unknown`.
    """
    (row,) = await database.fetch(_JOBS_WITH_DUE_WORK, abandoned_after)
    return {name for name, is_due in row.items() if is_due}


class MatchingRecords(NamedTuple):
    """What is recorded about calls in Twilio's list of an account.

    `account_added_at` is the time when the account was added to Callgate. `sids` are the sids that have a record.
    `open_addresses` are the `to` of records without a sid that may have started one of the calls.
    """

    account_added_at: datetime
    sids: Collection[str]
    open_addresses: Collection[str]


async def read_matching_records(
    database: Database, account_sid: str, *, sids: Collection[str], keys: Collection[str]
) -> MatchingRecords:
    """Returns what the records of all tenants say about calls in Twilio's list of the account.

    `sids` are the sids of these calls. `keys` are the results of `address_key` for their `to`. `open_addresses` of the result
    may also have addresses with other keys, so the caller must compare the keys.
    """
    (row,) = await database.fetch(_MATCHING_RECORDS, account_sid, list(sids), list(keys))
    return MatchingRecords(row["account_added_at"], set(row["sids"]), row["open_addresses"])
