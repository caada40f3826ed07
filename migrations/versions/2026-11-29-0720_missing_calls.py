"""Adds to each row of `dial_slot` (a call that counts toward a limit) the time since which Twilio no longer knows the call."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0034"
down_revision: str | None = "0033"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("dial_slot", sa.Column("missing_since", sa.DateTime(timezone=True), nullable=True))
    where = sa.text("missing_since IS NOT NULL")
    op.create_index(None, "dial_slot", ["missing_since"], postgresql_where=where)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("dial_slot", "missing_since")
