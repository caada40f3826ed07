"""Adds a table of requests to end calls that Callgate still has to send, and the time when a call was deleted at Twilio.

The version before this one keeps working on the new schema.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("call", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "wanted_update",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("wanted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('canceled', 'completed')", name=op.f("ck_wanted_update_status")),
        sa.ForeignKeyConstraint(["call_id"], ["call.id"], name=op.f("fk_wanted_update_call_id_call"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_wanted_update")),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("wanted_update")
    op.drop_column("call", "deleted_at")
