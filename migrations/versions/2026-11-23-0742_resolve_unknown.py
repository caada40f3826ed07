"""Adds the time of the next search at Twilio for a call whose outcome is unknown, and the time when a credential was rejected.

The version before this one keeps working on the new schema (expand, then contract).
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from migrations.locks import lock_tables

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables("call", "twilio_credential")
    op.add_column("call", sa.Column("search_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("call", sa.Column("clean_searches", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_index(
        "ix_call_account_sid_to",
        "call",
        ["account_sid", "to"],
        unique=False,
        postgresql_where=sa.text("execution <> 'started'"),
    )
    op.create_index("ix_call_search_at", "call", ["search_at"], unique=False, postgresql_where=sa.text("search_at IS NOT NULL"))
    op.add_column("twilio_credential", sa.Column("rejected_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("twilio_credential", sa.Column("rejected_reason", sa.Text(), nullable=True))
    # Search now for creations that are already unknown.
    op.execute("UPDATE call SET search_at = now() WHERE execution = 'unknown'")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("twilio_credential", "rejected_reason")
    op.drop_column("twilio_credential", "rejected_at")
    op.drop_index("ix_call_account_sid_to", table_name="call")
    op.drop_column("call", "clean_searches")
    op.drop_column("call", "search_at")
