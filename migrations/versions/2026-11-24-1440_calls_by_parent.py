"""Creates an index of calls by their parent call, for the filter ParentCallSid of Twilio's list of calls.

The index is created concurrently, without blocking calls, and therefore in a migration of its own.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
        op.drop_index("ix_call_tenant_id_parent_call_sid_id", table_name="call", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "ix_call_tenant_id_parent_call_sid_id",
            "call",
            ["tenant_id", "parent_call_sid", "id"],
            unique=False,
            postgresql_where=sa.text("parent_call_sid IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_call_tenant_id_parent_call_sid_id", table_name="call", if_exists=True, postgresql_concurrently=True)
