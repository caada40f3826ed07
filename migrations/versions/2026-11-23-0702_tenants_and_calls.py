"""Creates the tables of tenants, their Twilio accounts and API keys, and of calls and their events."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    # Fail, to be run again, rather than block every request while waiting for a lock.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "call_event",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "at", "id", name=op.f("pk_call_event")),
        postgresql_partition_by="RANGE (at)",
    )
    # The worker creates the partitions of the coming months. The default partition takes events that have none, so that
    # a missing partition never makes a call fail.
    op.execute("CREATE TABLE call_event_default PARTITION OF call_event DEFAULT")
    op.create_table(
        "tenant",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenant")),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("keyed_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_api_key_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_key_prefix")),
    )
    op.create_index(op.f("ix_api_key_tenant_id"), "api_key", ["tenant_id"], unique=False)
    op.create_table(
        "twilio_account",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("account_sid", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_twilio_account_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_twilio_account")),
        sa.UniqueConstraint("tenant_id", "account_sid", name=op.f("uq_twilio_account_tenant_id_account_sid")),
    )
    op.create_table(
        "call",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("execution", sa.Text(), nullable=False),
        sa.Column("settled_by", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("pending_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("problem", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("parameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "warnings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column("to", sa.Text(), nullable=False),
        sa.Column("from", sa.Text(), nullable=False),
        sa.Column("sid", sa.Text(), nullable=True),
        sa.Column("account_sid", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("direction", sa.Text(), nullable=True),
        sa.Column("to_formatted", sa.Text(), nullable=True),
        sa.Column("from_formatted", sa.Text(), nullable=True),
        sa.Column("date_created", sa.DateTime(timezone=True), nullable=True),
        sa.Column("date_updated", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("duration", sa.Integer(), nullable=True),
        sa.Column("price", sa.Numeric(), nullable=True),
        sa.Column("price_unit", sa.Text(), nullable=True),
        sa.Column("answered_by", sa.Text(), nullable=True),
        sa.Column("api_version", sa.Text(), nullable=True),
        sa.Column("caller_name", sa.Text(), nullable=True),
        sa.Column("forwarded_from", sa.Text(), nullable=True),
        sa.Column("group_sid", sa.Text(), nullable=True),
        sa.Column("parent_call_sid", sa.Text(), nullable=True),
        sa.Column("phone_number_sid", sa.Text(), nullable=True),
        sa.Column("queue_time", sa.Integer(), nullable=True),
        sa.Column("trunk_sid", sa.Text(), nullable=True),
        sa.Column("uri", sa.Text(), nullable=True),
        sa.Column("subresource_uris", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("resource", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("refresh_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(execution = 'started') = (sid IS NOT NULL)", name=op.f("ck_call_sid_when_started")),
        sa.CheckConstraint("execution IN ('pending', 'started', 'not_started', 'unknown')", name=op.f("ck_call_execution")),
        sa.ForeignKeyConstraint(["account_id"], ["twilio_account.id"], name=op.f("fk_call_account_id_twilio_account")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name=op.f("fk_call_tenant_id_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call")),
        sa.UniqueConstraint("sid", name=op.f("uq_call_sid")),
    )
    op.create_index(
        "ix_call_pending_since",
        "call",
        ["pending_since"],
        unique=False,
        postgresql_where=sa.text("execution = 'pending'"),
    )
    op.create_index(
        "ix_call_refresh_at",
        "call",
        ["refresh_at"],
        unique=False,
        postgresql_where=sa.text("refresh_at IS NOT NULL"),
    )
    op.create_index(
        "ix_call_tenant_id_execution_id",
        "call",
        ["tenant_id", "execution", "id"],
        unique=False,
        postgresql_where=sa.text("execution <> 'started'"),
    )
    op.create_index("ix_call_tenant_id_from_id", "call", ["tenant_id", "from", "id"], unique=False)
    op.create_index("ix_call_tenant_id_id", "call", ["tenant_id", "id"], unique=False)
    op.create_index("ix_call_tenant_id_status_id", "call", ["tenant_id", "status", "id"], unique=False)
    op.create_index("ix_call_tenant_id_to_id", "call", ["tenant_id", "to", "id"], unique=False)
    op.create_index(
        "uq_call_tenant_id_idempotency_key",
        "call",
        ["tenant_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "twilio_credential",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('auth_token', 'api_key')", name=op.f("ck_twilio_credential_kind")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["twilio_account.id"], name=op.f("fk_twilio_credential_account_id_twilio_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_twilio_credential")),
    )
    op.create_index(op.f("ix_twilio_credential_account_id"), "twilio_credential", ["account_id"], unique=False)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_table("twilio_credential")
    op.drop_table("call")
    op.drop_table("twilio_account")
    op.drop_table("api_key")
    op.drop_table("tenant")
    op.drop_table("call_event")
