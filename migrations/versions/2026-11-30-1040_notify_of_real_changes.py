"""Notifies processes of changes of tenants only if something changed that they may have cached.

The triggers of revisions 0005, 0022, 0024 and 0026 ran for each statement: also for one that changed no row, for one that wrote
the same values, and for the paces of queues, which are not cached. The version before this one keeps working.
"""

from collections.abc import Sequence

from alembic import op

from migrations.locks import lock_tables

revision: str = "0041"
down_revision: str | None = "0040"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# The tables, each with the columns that are not cached. A new column counts as cached.
UNCACHED_COLUMNS = {
    "tenant": "'name', 'hours'",
    "twilio_account": "",
    "twilio_credential": "",
    "api_key": "",
    "sip_credential": "",
    "workload": "",
}
NOTIFY = "PERFORM pg_notify('callgate_tenants', '')"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables(*UNCACHED_COLUMNS, "pace", mode="SHARE ROW EXCLUSIVE")
    op.execute(f"""
        CREATE FUNCTION callgate_notify_of_row() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            uncached text[] := coalesce(TG_ARGV, '{{}}');
        BEGIN
            IF TG_OP <> 'UPDATE' OR to_jsonb(NEW) - uncached IS DISTINCT FROM to_jsonb(OLD) - uncached THEN {NOTIFY}; END IF;
            RETURN NULL;
        END $$
    """)
    op.execute(f"""
        CREATE FUNCTION callgate_notify_of_pace() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM twilio_account WHERE id = NEW.subject_id) THEN {NOTIFY}; END IF;
            RETURN NULL;
        END $$
    """)
    # The triggers are replaced, because DROP TRIGGER would wait for all readers and block new ones.
    for table, columns in UNCACHED_COLUMNS.items():
        op.execute(f"""
            CREATE OR REPLACE TRIGGER notify_of_tenants AFTER INSERT OR UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION callgate_notify_of_row({columns})
        """)
        op.execute(f"""
            CREATE TRIGGER notify_of_truncate AFTER TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
        """)
    op.execute("""
        CREATE OR REPLACE TRIGGER notify_of_tenants AFTER INSERT ON pace FOR EACH ROW
        WHEN (NEW.calls_per_second IS NOT NULL OR NEW.max_concurrent IS NOT NULL)
        EXECUTE FUNCTION callgate_notify_of_pace()
    """)
    op.execute("""
        CREATE TRIGGER notify_of_update AFTER UPDATE OF calls_per_second, burst, max_concurrent ON pace FOR EACH ROW
        WHEN ((OLD.calls_per_second, OLD.burst, OLD.max_concurrent)
            IS DISTINCT FROM (NEW.calls_per_second, NEW.burst, NEW.max_concurrent))
        EXECUTE FUNCTION callgate_notify_of_pace()
    """)
    op.execute("""
        CREATE TRIGGER notify_of_truncate AFTER DELETE OR TRUNCATE ON pace
        FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
    """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    events = dict.fromkeys(UNCACHED_COLUMNS, "INSERT OR UPDATE OR DELETE OR TRUNCATE")
    events["pace"] = "INSERT OR UPDATE OF calls_per_second, burst, max_concurrent OR DELETE OR TRUNCATE"
    for table, each in events.items():
        op.execute(f"""
            CREATE OR REPLACE TRIGGER notify_of_tenants AFTER {each} ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
        """)
        op.execute(f"DROP TRIGGER notify_of_truncate ON {table}")
    op.execute("DROP TRIGGER notify_of_update ON pace")
    op.execute("DROP FUNCTION callgate_notify_of_row()")
    op.execute("DROP FUNCTION callgate_notify_of_pace()")
