"""Renames the event of a redial that cannot be written, because its name read like the status `failed` of a call at Twilio."""

from collections.abc import Sequence

from alembic import op

revision: str = "0043"
down_revision: str | None = "0042"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# Replaces the name in the function of revision 0038. Events that are stored keep their old name.
REDIAL_NOT_WRITTEN = """
    DO $$ BEGIN
        EXECUTE replace(pg_get_functiondef('callgate_redial()'::regprocedure), 'call.redial_failed', 'call.redial_not_written');
    END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(REDIAL_NOT_WRITTEN)


def downgrade() -> None:
    """Keeps the function `callgate_redial`, because the earlier version of Callgate works with it, too.

    The downgrade of revision 0028 drops it.
    """
    op.execute("SET LOCAL lock_timeout = '5s'")
