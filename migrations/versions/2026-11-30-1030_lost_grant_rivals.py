"""Creates an index of scheduled calls that were not dialled, according to their record, by account and normalized address.

If the database has lost a grant (the right to dial a call), such a call may have been dialled all the same.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0040"
down_revision: str | None = "0039"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

INDEX = "ix_call_account_sid_address_key_undialled"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted CREATE INDEX CONCURRENTLY leaves an invalid index behind.
        op.drop_index(INDEX, table_name="call", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            INDEX,
            "call",
            ["account_sid", "address_key"],
            unique=False,
            postgresql_where=sa.text("execution = 'scheduled' OR settled_by IN ('canceled', 'expired')"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index(INDEX, table_name="call", if_exists=True, postgresql_concurrently=True)
