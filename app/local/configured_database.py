"""Checks that the database of CALLGATE_DATABASE_URL has no tenants whose calls would go to the simulator instead of Twilio."""

from app.database.pool import StatementPool
from app.errors import CommandFailed
from app.local.demo import DEMO_TENANT

_HAS_TENANTS_SQL = "SELECT FROM tenant WHERE id <> $1 LIMIT 1"


class DatabaseHasTenants(CommandFailed):
    """The database has tenants, and a simulator started with this database would answer their calls instead of Twilio."""


async def require_no_other_tenants(database: StatementPool) -> None:
    """Raises DatabaseHasTenants if the database has a tenant other than that of `callgate demo`.

    Without this check, the worker would dial the waiting calls of these tenants at the simulator: no phone would ring, and the
    records would say that the calls were completed. Raises DatabaseUnavailable if the database cannot be read.
    """
    [row] = await database.fetch("SELECT to_regclass('tenant') IS NOT NULL AS is_migrated")
    if row["is_migrated"] and await database.fetch(_HAS_TENANTS_SQL, DEMO_TENANT):
        raise DatabaseHasTenants(
            "the database of CALLGATE_DATABASE_URL has tenants, and the simulator would answer their calls in place of "
            "Twilio: unset the variable to use a separate database. `callgate dev` also has --simulator and --no-simulator"
        )
