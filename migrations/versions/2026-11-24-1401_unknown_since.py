"""Creates an index, by age, of the calls whose outcome is unknown. A metric reads the oldest of them.

The index is created concurrently, without blocking calls, and therefore in a migration of its own.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
        op.drop_index("ix_call_unknown_since", table_name="call", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "ix_call_unknown_since",
            "call",
            ["pending_since"],
            unique=False,
            postgresql_where=sa.text("execution = 'unknown'"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_call_unknown_since", table_name="call", if_exists=True, postgresql_concurrently=True)
