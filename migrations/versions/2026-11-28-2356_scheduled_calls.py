"""Adds the tables of scheduled calls, queues, dialling limits, turns of callers, and calls that count toward a limit.

`call.execution` may have the new value `scheduled`.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.locks import lock_tables

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    lock_tables("call", "tenant")
    op.add_column("tenant", sa.Column("hours", postgresql.JSONB(), nullable=True))
    op.add_column("call", sa.Column("queue_id", sa.Uuid(), nullable=True))
    op.add_column("call", sa.Column("redial_of", sa.Uuid(), nullable=True))
    op.drop_constraint(op.f("ck_call_execution"), "call", type_="check")
    # Validated by the next migration, which does not block writes.
    op.execute(
        "ALTER TABLE call ADD CONSTRAINT ck_call_execution CHECK "
        "(execution IN ('scheduled', 'pending', 'started', 'not_started', 'unknown')) NOT VALID"
    )
    _create_queues_and_pace()
    _create_scheduled_dials()
    _create_turns_and_slots()


def _create_queues_and_pace() -> None:
    op.create_table(
        "queue",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("tenant_id", sa.Text(), sa.ForeignKey("tenant.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("hours", postgresql.JSONB(), nullable=True),
        sa.Column("ring_within_s", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.UniqueConstraint("tenant_id", "name"),
    )
    op.create_table(
        "pace",
        sa.Column("subject_id", sa.Uuid(), primary_key=True),
        sa.Column("calls_per_second", sa.Numeric(), nullable=True),
        sa.Column("burst", sa.Integer(), server_default=sa.text("2"), nullable=False),
        sa.Column("max_concurrent", sa.Integer(), nullable=True),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("'-infinity'"), nullable=False),
        sa.Column("in_use", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("calls_per_second > 0", name="calls_per_second"),
        sa.CheckConstraint("burst > 0", name="burst"),
        sa.CheckConstraint("max_concurrent > 0", name="max_concurrent"),
    )
    # Processes cache these columns. A grant (a worker takes the right to dial a call) changes only the other columns.
    op.execute("""
        CREATE TRIGGER notify_of_tenants
        AFTER INSERT OR UPDATE OF calls_per_second, burst, max_concurrent OR DELETE OR TRUNCATE ON pace
        FOR EACH STATEMENT EXECUTE FUNCTION callgate_notify_of_tenants()
    """)


def _create_scheduled_dials() -> None:
    op.create_table(
        "scheduled_dial",
        sa.Column("call_id", sa.Uuid(), sa.ForeignKey("call.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("queue_id", sa.Uuid(), nullable=False),
        sa.Column("caller_id", sa.Uuid(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ring_by", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("ring_by > not_before", name="ring_by"),
    )
    turn = ["account_id", "priority", "caller_id", "queue_id", "due_at", "call_id"]
    op.create_index(None, "scheduled_dial", turn)
    op.create_index(None, "scheduled_dial", ["account_id", "due_at"])
    op.create_index(None, "scheduled_dial", ["queue_id", "due_at"])
    op.create_index(None, "scheduled_dial", ["ring_by"])


def _create_turns_and_slots() -> None:
    op.create_table(
        "dial_turn",
        sa.Column("account_id", sa.Uuid(), primary_key=True),
        sa.Column("caller_id", sa.Uuid(), primary_key=True),
        sa.Column("last_grant_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
    )
    op.create_index(None, "dial_turn", ["account_id", "last_grant_at"])
    op.create_table(
        "dial_slot",
        sa.Column("call_id", sa.Uuid(), sa.ForeignKey("call.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("queue_id", sa.Uuid(), nullable=True),
        sa.Column("caller_id", sa.Uuid(), nullable=True),
        sa.Column("granted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ring_by", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index(None, "dial_slot", ["account_id"])
    op.create_index(None, "dial_slot", ["queue_id"], postgresql_where=sa.text("queue_id IS NOT NULL"))
    op.create_index(None, "dial_slot", ["until"])
    op.create_index(None, "dial_slot", ["ring_by"], postgresql_where=sa.text("ring_by IS NOT NULL"))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in ("dial_slot", "dial_turn", "scheduled_dial", "pace", "queue"):
        op.drop_table(table)
    op.execute("UPDATE call SET execution = 'not_started' WHERE execution = 'scheduled'")
    op.drop_constraint(op.f("ck_call_execution"), "call", type_="check")
    op.create_check_constraint(
        op.f("ck_call_execution"), "call", "execution IN ('pending', 'started', 'not_started', 'unknown')"
    )
    op.drop_column("call", "redial_of")
    op.drop_column("call", "queue_id")
    op.drop_column("tenant", "hours")
