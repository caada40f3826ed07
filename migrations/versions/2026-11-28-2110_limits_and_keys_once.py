"""Adds each tenant's limit of concurrent creations, and the idempotency key of the request that created an API key."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from migrations.locks import lock_tables

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables("api_key", "tenant")
    op.add_column("tenant", sa.Column("max_in_flight", sa.Integer(), nullable=True))
    op.create_check_constraint(op.f("ck_tenant_max_in_flight"), "tenant", "max_in_flight > 0")
    op.add_column("api_key", sa.Column("idempotency_key", sa.Text(), nullable=True))
    op.create_index(
        "ix_api_key_tenant_id_idempotency_key",
        "api_key",
        ["tenant_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index("ix_api_key_tenant_id_idempotency_key", table_name="api_key")
    op.drop_column("api_key", "idempotency_key")
    op.drop_constraint(op.f("ck_tenant_max_in_flight"), "tenant", type_="check")
    op.drop_column("tenant", "max_in_flight")
