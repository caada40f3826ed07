"""Adds to each call the trace (W3C traceparent) of the request that created it.

The version before this one keeps working on the new schema (expand, then contract).
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("call", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("call", "traceparent")
