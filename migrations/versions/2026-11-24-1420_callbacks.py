"""Adds the order of Twilio's callbacks, the tenants' callback settings and the table of deliveries.

A delivery is a webhook request that Callgate has sent, or still has to send, to a tenant. The version before this one keeps
working on the new schema (expand, then contract).
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.locks import lock_tables

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_TEXTS = postgresql.ARRAY(sa.Text())


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables("call", "tenant")
    op.add_column("call", sa.Column("callback_sequence", sa.Integer(), nullable=True))
    op.add_column("call", sa.Column("callbacks_seen", _TEXTS, server_default=sa.text("'{}'"), nullable=False))
    op.add_column("call", sa.Column("status_callback", sa.Text(), nullable=True))
    op.add_column("call", sa.Column("status_callback_method", sa.Text(), nullable=True))
    op.add_column("call", sa.Column("status_callback_events", _TEXTS, nullable=True))
    op.add_column("call", sa.Column("deliveries_written", _TEXTS, server_default=sa.text("'{}'"), nullable=False))
    op.add_column("tenant", sa.Column("status_callback", sa.Text(), nullable=True))
    op.add_column("tenant", sa.Column("status_callback_method", sa.Text(), nullable=True))
    op.add_column("tenant", sa.Column("status_callback_events", _TEXTS, nullable=True))
    op.add_column("tenant", sa.Column("callback_format", sa.Text(), server_default=sa.text("'twilio'"), nullable=False))
    op.add_column("tenant", sa.Column("sealed_callback_secret", sa.LargeBinary(), nullable=True))
    op.create_check_constraint(op.f("ck_tenant_callback_format"), "tenant", "callback_format IN ('twilio', 'json')")
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=True),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("pending_since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("last_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'gave_up')", name=op.f("ck_delivery_state")),
        sa.CheckConstraint(
            "(state = 'pending') = (next_attempt_at IS NOT NULL)", name=op.f("ck_delivery_pending_has_next_attempt")
        ),
        sa.PrimaryKeyConstraint("call_id", "at", "id", name=op.f("pk_delivery")),
        postgresql_partition_by="RANGE (at)",
    )
    op.create_index("ix_delivery_tenant_id_at", "delivery", ["tenant_id", "at"], unique=False)
    op.create_index(
        "ix_delivery_tenant_id_next_attempt_at",
        "delivery",
        ["tenant_id", "next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    )
    # The default partition, as for call_event.
    op.execute("CREATE TABLE delivery_default PARTITION OF delivery DEFAULT")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("delivery")
    op.drop_constraint(op.f("ck_tenant_callback_format"), "tenant")
    for column in (
        "sealed_callback_secret",
        "callback_format",
        "status_callback_events",
        "status_callback_method",
        "status_callback",
    ):
        op.drop_column("tenant", column)
    for column in (
        "deliveries_written",
        "status_callback_events",
        "status_callback_method",
        "status_callback",
        "callbacks_seen",
        "callback_sequence",
    ):
        op.drop_column("call", column)
