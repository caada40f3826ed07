"""Gives each API key scopes (`call`, `read`, `admin`), and lets a key belong to an operator instead of a tenant.

Keys that the version before this one created, or still creates, have the scopes `call` and `read`.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column(
        "api_key",
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{call,read}'"), nullable=False),
    )
    op.create_check_constraint(op.f("ck_api_key_scopes"), "api_key", "scopes <> '{}' AND scopes <@ '{call,read,admin}'")
    op.alter_column("api_key", "tenant_id", existing_type=sa.Text(), nullable=True)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    # Fails if there are operators' keys.
    op.alter_column("api_key", "tenant_id", existing_type=sa.Text(), nullable=False)
    op.drop_constraint(op.f("ck_api_key_scopes"), "api_key", type_="check")
    op.drop_column("api_key", "scopes")
