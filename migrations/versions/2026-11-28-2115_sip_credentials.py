"""Adds the table of named SIP credentials, and a trigger that notifies every process of changes to them.

The version before this one keeps working on the new schema (expand, then contract).
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "sip_credential",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sealed_username", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_password", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_sip_credential_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sip_credential")),
        sa.UniqueConstraint("tenant_id", "name", name=op.f("uq_sip_credential_tenant_id_name")),
    )
    op.execute("""
        CREATE TRIGGER notify_of_tenants AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON sip_credential
        FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
    """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("sip_credential")
