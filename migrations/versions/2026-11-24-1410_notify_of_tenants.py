"""Adds triggers that notify every process of changes to tenants, accounts, credentials and API keys.

The processes cache these rows, and drop them from the cache at a notification. The version before this one keeps working on the
new schema (expand, then contract).
"""

from collections.abc import Sequence

from alembic import op

from migrations.locks import lock_tables

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLES = ("tenant", "twilio_account", "twilio_credential", "api_key")


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables(*TABLES, mode="SHARE ROW EXCLUSIVE")
    op.execute("""
        CREATE FUNCTION callgate_notify_of_tenants() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('callgate_tenants', ''); RETURN NULL; END $$
    """)
    for table in TABLES:
        op.execute(f"""
            CREATE TRIGGER notify_of_tenants AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
        """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in TABLES:
        op.execute(f"DROP TRIGGER notify_of_tenants ON {table}")
    op.execute("DROP FUNCTION callgate_notify_of_tenants()")
