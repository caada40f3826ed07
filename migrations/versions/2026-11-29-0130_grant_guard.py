"""Adds a row with the database server on which workers were given rights to dial (grants).

If the row names another server than the current one, the database was restored, copied or failed over. The check before each
grant notices this.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0029"
down_revision: str | None = "0028"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "grant_guard",
        sa.Column("id", sa.SmallInteger(), server_default=sa.text("1"), primary_key=True, autoincrement=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("halted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    # The function runs with the rights of its owner, so that all roles get the same result. A part that the server hides is
    # "-". The timeline of pg_control_checkpoint() would be the old one until the first checkpoint after a promotion.
    op.execute("""
        CREATE FUNCTION callgate_server() RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            system text := '-';
            timeline text := '-';
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
    """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP FUNCTION callgate_server()")
    op.drop_table("grant_guard")
