"""Adds two times for an account whose calls Twilio refuses for the moment: of the first refusal, and of the next try."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0042"
down_revision: str | None = "0041"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("pace", sa.Column("refused_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("pace", sa.Column("probe_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("pace", "probe_at")
    op.drop_column("pace", "refused_since")
