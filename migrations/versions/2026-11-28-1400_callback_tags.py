"""Records when callback URLs began to have a tag, which proves that Callgate has made the URL.

Callbacks of calls that are older are accepted without a tag.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "upgrade",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_upgrade")),
    )
    # In a new database every call has a tag.
    op.execute("INSERT INTO upgrade (name) SELECT 'callback_tags' WHERE EXISTS (SELECT FROM call)")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("upgrade")
