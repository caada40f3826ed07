"""Locks the tables that a migration changes, without a deadlock in which Postgres ends a request."""

from typing import Final, Literal

from alembic import op

# A session that waits for a lock looks for a deadlock after a second (`deadlock_timeout`). All waits of one try together are
# shorter. `lock_timeout` applies to each table.
_MAX_WAIT_OF_TRY_MS: Final = 800
_MAX_TRIES: Final = 10
_LOCK_TABLES: Final = """
    DO $$
    BEGIN
        PERFORM set_config('lock_timeout', '{wait_ms}ms', true);
        FOR attempt IN 1..{max_tries} LOOP
            BEGIN
                LOCK TABLE {tables} IN {mode} MODE;
                PERFORM set_config('lock_timeout', '5s', true);
                RETURN;
            EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                -- This has released the locks of the try.
                IF attempt = {max_tries} THEN RAISE; END IF;
            END;
            PERFORM pg_sleep(0.2);
        END LOOP;
    END $$
"""


def lock_tables(*tables: str, mode: Literal["ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE"] = "ACCESS EXCLUSIVE") -> None:
    """Locks several tables until the end of the migration. Call it first if a migration changes more than one existing table.

    If the migration waited for one table while it has locked another one, a request that uses both could be in a deadlock with
    it. So this function locks all tables or none: after a short wait it releases its locks, lets requests go on, and tries
    again. After ten tries, which take ten seconds at most, the migration fails, and can be run again.
    """
    wait_ms = _MAX_WAIT_OF_TRY_MS // len(tables)
    op.execute(_LOCK_TABLES.format(wait_ms=wait_ms, max_tries=_MAX_TRIES, tables=", ".join(tables), mode=mode))
