"""Adds the workloads: service accounts of Kubernetes that act for a tenant or, without a tenant, for an operator."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "workload",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("service_account", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=True),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("scopes <> '{}' AND scopes <@ '{call,read,admin}'", name=op.f("ck_workload_scopes")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_workload_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workload")),
        sa.UniqueConstraint(
            "issuer", "namespace", "service_account", name=op.f("uq_workload_issuer_namespace_service_account")
        ),
    )
    op.create_index(op.f("ix_workload_tenant_id"), "workload", ["tenant_id"], unique=False)
    op.execute("""
        CREATE TRIGGER notify_of_tenants AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON workload
        FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
    """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("workload")
