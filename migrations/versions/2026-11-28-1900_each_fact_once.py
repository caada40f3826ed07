"""Lets new rows of calls, events and deliveries leave out a value that is stored elsewhere.

The value is then in another column of the row, or in the call or event that the row belongs to.
Existing rows stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.locks import lock_tables

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "webhook_id": sa.Text(),
    "url": sa.Text(),
    "method": sa.Text(),
    "fields": postgresql.JSONB(),
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables("call", "call_event", "delivery")
    op.add_column("call", sa.Column("resource_left_out", sa.Integer(), nullable=True))
    op.add_column("call_event", sa.Column("data_left_out", sa.Integer(), nullable=True))
    for column, type_ in _TYPES.items():
        op.alter_column("delivery", column, existing_type=type_, nullable=True)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # Fails if there are deliveries without these columns.
    for column, type_ in _TYPES.items():
        op.alter_column("delivery", column, existing_type=type_, nullable=False)
    op.drop_column("call_event", "data_left_out")
    op.drop_column("call", "resource_left_out")
