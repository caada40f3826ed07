"""Creates an index of creations that may have started the same call at Twilio.

The index is created concurrently, without blocking calls, and therefore in a migration of its own. The index that it replaces,
ix_call_account_sid_to, stays for the version before this one.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
        op.drop_index(
            "ix_call_account_sid_address_pending_since", table_name="call", if_exists=True, postgresql_concurrently=True
        )
        op.create_index(
            "ix_call_account_sid_address_pending_since",
            "call",
            ["account_sid", sa.text("split_part(\"to\", '?', 1)"), "pending_since"],
            unique=False,
            postgresql_where=sa.text("execution IN ('pending', 'unknown') OR settled_by = 'none_found'"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(
            "ix_call_account_sid_address_pending_since", table_name="call", if_exists=True, postgresql_concurrently=True
        )
