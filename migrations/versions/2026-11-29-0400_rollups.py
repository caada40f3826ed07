"""Adds the table of rollups: each tenant's numbers of calls and deliveries, for every minute and every hour."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0032"
down_revision: str | None = "0031"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_NUMBERS = (
    *("scheduled", "pending", "started", "not_started", "unknown"),
    *("server_errors", "callbacks", "called_back", "unpriced"),
    *("delivered", "gave_up", "undelivered"),
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "rollup",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seconds", sa.SmallInteger(), nullable=False),
        sa.Column("start", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False) for name in _NUMBERS),
        sa.Column("spent", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("latency", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("waiting", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "seconds", "start"),
        sa.CheckConstraint("seconds IN (60, 3600)", name="seconds"),
    )
    op.create_index(None, "rollup", ["seconds", "start"])
    op.create_table(
        "rollup_progress",
        sa.Column("id", sa.SmallInteger(), server_default=sa.text("1"), primary_key=True, autoincrement=False),
        sa.Column("rolled_until", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    # The calls and deliveries of the last seven days in an existing installation are counted, too.
    op.execute("INSERT INTO rollup_progress (rolled_until) SELECT date_trunc('minute', now()) - interval '7 days'")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("rollup_progress")
    op.drop_table("rollup")
