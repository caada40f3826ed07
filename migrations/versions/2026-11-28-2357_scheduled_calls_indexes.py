"""Validates the check constraint of `call.execution`, and adds indexes of the calls of a queue and of redials.

A redial is a new call to someone who was busy or did not answer.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

QUEUE_INDEX = "ix_call_queue_id_id"
REDIAL_INDEX = "uq_call_redial_of"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE call VALIDATE CONSTRAINT ck_call_execution")
        # An index that a failed migration has left is not valid.
        for name in (QUEUE_INDEX, REDIAL_INDEX):
            op.drop_index(name, table_name="call", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            QUEUE_INDEX,
            "call",
            ["queue_id", "id"],
            postgresql_where=sa.text("queue_id IS NOT NULL"),
            postgresql_concurrently=True,
        )
        op.create_index(
            REDIAL_INDEX,
            "call",
            ["redial_of"],
            unique=True,
            postgresql_where=sa.text("redial_of IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for name in (QUEUE_INDEX, REDIAL_INDEX):
            op.drop_index(name, table_name="call", if_exists=True, postgresql_concurrently=True)
