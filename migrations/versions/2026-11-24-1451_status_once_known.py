"""Makes each creation of a call write two index entries fewer.

The new index by status leaves out calls without a status. The index that revision 0010 replaced is dropped, because no running
version needs it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        _drop("ix_call_tenant_id_status_id_known")
        op.create_index(
            "ix_call_tenant_id_status_id_known",
            "call",
            ["tenant_id", "status", "id"],
            unique=False,
            postgresql_where=sa.text("status IS NOT NULL"),
            postgresql_concurrently=True,
        )
        _drop("ix_call_tenant_id_status_id")
        _drop("ix_call_account_sid_to")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop("ix_call_tenant_id_status_id")
        op.create_index(
            "ix_call_tenant_id_status_id", "call", ["tenant_id", "status", "id"], unique=False, postgresql_concurrently=True
        )
        _drop("ix_call_tenant_id_status_id_known")
        _drop("ix_call_account_sid_to")
        op.create_index(
            "ix_call_account_sid_to",
            "call",
            ["account_sid", "to"],
            unique=False,
            postgresql_where=sa.text("execution <> 'started'"),
            postgresql_concurrently=True,
        )


def _drop(index: str) -> None:
    op.drop_index(index, table_name="call", if_exists=True, postgresql_concurrently=True)
