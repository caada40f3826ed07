"""Tells Postgres's planner that an account belongs to one tenant (extended statistics).

Without this the planner underestimates how many calls match both a tenant and its account. The version before this one keeps
working on the new schema (expand, then contract).
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("CREATE STATISTICS st_call_tenant_id_account_sid (dependencies) ON tenant_id, account_sid FROM call")
    op.execute("ANALYZE call")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute("DROP STATISTICS st_call_tenant_id_account_sid")
