"""SQL of the rotation of Twilio credentials, on asyncpg alone, as in `administration_store`. Functions never commit."""

from datetime import datetime
from uuid import UUID

from app.database.connection import Connection


async def give_place(connection: Connection, credential_id: UUID, *, place: UUID) -> None:
    """Makes a credential the first one in this place from now on."""
    await connection.execute(
        "UPDATE twilio_credential SET place = $2, preferred_at = now() WHERE id = $1", credential_id, place
    )


async def mark_rejected(connection: Connection, credential_id: UUID, *, reason: str) -> None:
    """Marks a credential as refused by Twilio, unless it is marked."""
    statement = "UPDATE twilio_credential SET rejected_at = now(), rejected_reason = $2 WHERE id = $1 AND rejected_at IS NULL"
    await connection.execute(statement, credential_id, reason)


async def transaction_start(connection: Connection) -> datetime:
    """Returns when the transaction began, by Postgres's clock."""
    moment: datetime = await connection.fetchval("SELECT now()")
    return moment
