"""Lets a new credential take the place of an old one in the order in which an account's credentials are tried.

The version before this one works on the new schema too, but tries credentials in the order of their ids.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("twilio_credential", sa.Column("place", sa.Uuid(), nullable=True))
    op.add_column("twilio_credential", sa.Column("preferred_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_column("twilio_credential", "preferred_at")
    op.drop_column("twilio_credential", "place")
