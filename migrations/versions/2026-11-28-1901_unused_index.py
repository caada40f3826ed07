"""Drops ix_call_account_sid_address_pending_since, which revision 0014 has replaced. No running version needs it."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

INDEX = "ix_call_account_sid_address_pending_since"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="call", if_exists=True, postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="call", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX,
            "call",
            ["account_sid", sa.text("split_part(\"to\", '?', 1)"), "pending_since"],
            unique=False,
            postgresql_where=sa.text("execution IN ('pending', 'unknown') OR settled_by = 'none_found'"),
            postgresql_concurrently=True,
        )
