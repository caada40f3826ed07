"""Adds two numbers of calls to the rollups.

They are the number of calls without an expected callback, and of calls without a price whose price is not read again.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0039"
down_revision: str | None = "0038"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for name in ("callback_missing", "price_given_up"):
        op.add_column("rollup", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for name in ("price_given_up", "callback_missing"):
        op.drop_column("rollup", name)
