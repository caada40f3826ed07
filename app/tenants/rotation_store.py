"""SQL that rotates Twilio credentials. Functions never commit.

Uses asyncpg without SQLAlchemy, as `administration_store` does.
"""

from datetime import datetime
from uuid import UUID

from app.database.connection import Connection


async def put_credential_before_replaced(connection: Connection, credential_id: UUID, *, place: UUID) -> None:
    """Makes Callgate try a credential before the one that it replaces. `place` is the sort key of the replaced one.

    Callgate tries the credentials of an account in the order of this key (app.tenants.credential_order). The credential gets
    the same key, and comes first among all that have it. Also removes the mark that Twilio refused the credential. Call this
    function only after Twilio has just accepted the credential.
    """
    await connection.execute(
        """UPDATE twilio_credential SET place = $2, preferred_at = now(), rejected_at = NULL, rejected_reason = NULL
        WHERE id = $1""",
        credential_id,
        place,
    )


async def mark_credential_rejected(connection: Connection, credential_id: UUID, *, reason: str) -> None:
    """Marks a credential as refused by Twilio. Keeps the time and reason of an earlier mark."""
    statement = "UPDATE twilio_credential SET rejected_at = now(), rejected_reason = $2 WHERE id = $1 AND rejected_at IS NULL"
    await connection.execute(statement, credential_id, reason)


async def transaction_start(connection: Connection) -> datetime:
    """Returns when the transaction began, by Postgres's clock."""
    moment: datetime = await connection.fetchval("SELECT now()")
    return moment
