"""Lists the accounts that have scheduled calls."""

from dataclasses import dataclass
from uuid import UUID

from app.database.engine import Database
from app.scheduling.accounts import accounts_with_rows_sql

_WAITING_ACCOUNTS = f"""
    {accounts_with_rows_sql("scheduled_dial")}
    SELECT account.account_id, tenant.id AS tenant_id, max_in_flight,
        extract(epoch FROM due_at - clock_timestamp())::float8 AS due_in_s
    FROM account CROSS JOIN LATERAL (
        SELECT due_at FROM scheduled_dial WHERE scheduled_dial.account_id = account.account_id ORDER BY due_at LIMIT 1
    ) AS first
    JOIN twilio_account ON twilio_account.id = account.account_id JOIN tenant ON tenant.id = twilio_account.tenant_id
"""  # noqa: S608  # a constant


@dataclass(frozen=True, slots=True)
class WaitingAccount:
    """An account with scheduled calls. `due_in_s` is the seconds until the first of them is due (negative if overdue)."""

    account_id: UUID
    tenant_id: str
    max_in_flight: int | None
    """How many calls one process may dial for the tenant at a time. None means CALLGATE_MAX_IN_FLIGHT_PER_TENANT."""
    due_in_s: float


async def accounts_with_scheduled_calls(database: Database) -> list[WaitingAccount]:
    return [WaitingAccount(**row) for row in await database.fetch(_WAITING_ACCOUNTS)]
