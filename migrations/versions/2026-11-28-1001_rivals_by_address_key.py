"""Creates an index, by normalized address, of creations that may have started the same call at Twilio.

It replaces ix_call_account_sid_address_pending_since, which stays for the version before this one. A later release drops that
index.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

INDEX = "ix_call_account_sid_address_key_pending_since"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
        op.drop_index(INDEX, table_name="call", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX,
            "call",
            ["account_sid", "address_key", "pending_since"],
            unique=False,
            postgresql_where=sa.text("execution IN ('pending', 'unknown') OR settled_by = 'none_found'"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="call", if_exists=True, postgresql_concurrently=True)
