"""Adds counters of the rights to dial that workers were given (grants).

If Postgres hides its timeline, a failover is now noticed by the server's start time.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from migrations.locks import lock_tables

revision: str = "0033"
down_revision: str | None = "0032"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# As in revision 0029, but if Postgres hides the timeline, the server's start time is used instead of "-". A standby that is
# promoted was started at another time than its primary.
SERVER = """
    CREATE OR REPLACE FUNCTION callgate_server() RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        system text := '-';
        timeline text := {hidden};
    BEGIN
        BEGIN
            SELECT system_identifier::text INTO system FROM pg_control_system();
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        BEGIN
            timeline := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int::text;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
        RETURN concat_ws('/', system, timeline, (SELECT oid FROM pg_database WHERE datname = current_database()));
    END $$
"""
START = "'started ' || extract(epoch FROM pg_postmaster_start_time())"
# If the row names this server, it is changed to the name that the new function gives the server.
REPLACE = """
    DO $migration$
    DECLARE
        before text := callgate_server();
    BEGIN
        {function};
        UPDATE grant_guard SET server = callgate_server() || '/' || split_part(server, '/', 4)
        WHERE server = before || '/' || split_part(server, '/', 4);
    END $migration$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables("pace", "grant_guard")
    op.add_column("pace", sa.Column("grants", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("pace", sa.Column("granted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("grant_guard", sa.Column("halt_reason", sa.Text(), nullable=True))
    op.add_column("grant_guard", sa.Column("released_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(REPLACE.format(function=SERVER.format(hidden=START)))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(REPLACE.format(function=SERVER.format(hidden="'-'")))
    for table, column in (
        ("grant_guard", "released_at"),
        ("grant_guard", "halt_reason"),
        ("pace", "granted_at"),
        ("pace", "grants"),
    ):
        op.drop_column(table, column)
