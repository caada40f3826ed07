"""Locks the tables that a migration changes, all or none, without a deadlock in which Postgres ends a request."""

from typing import Final, Literal

from alembic import op

# A session that has waited for a lock for a second (`deadlock_timeout`) cancels an autovacuum of the table, and looks for a
# deadlock.
_LOCK_TABLES: Final = """
    DO $$
    DECLARE
        relations regclass[] := ARRAY(
            SELECT each FROM unnest(ARRAY[{names}]::regclass[]) AS each
            UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = ANY (ARRAY[{names}]::regclass[])  -- partitions
        );
        each regclass;
        last_try_at timestamptz;
    BEGIN
        -- Locks one table or partition at a time, so there is no deadlock, and waits long enough to cancel an autovacuum. Waits
        -- for less than the two seconds after which a request that waits behind it would fail.
        PERFORM set_config('lock_timeout', '1500ms', true);
        FOREACH each IN ARRAY relations LOOP
            BEGIN
                EXECUTE format('LOCK TABLE ONLY %s IN {mode} MODE', each);
                RAISE EXCEPTION USING ERRCODE = 'CG001';  -- releases the lock
            EXCEPTION WHEN lock_not_available OR undefined_table OR SQLSTATE 'CG001' THEN NULL;
            END;
        END LOOP;
        -- Locks all tables. The waits of one try together are shorter than a second: the timeout applies to each lock.
        PERFORM set_config('lock_timeout', (800 / cardinality(relations)) || 'ms', true);
        last_try_at := clock_timestamp() + interval '10 seconds';
        LOOP
            BEGIN
                LOCK TABLE {tables} IN {mode} MODE;
                PERFORM set_config('lock_timeout', '5s', true);
                RETURN;
            EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                -- This has released the locks of the try.
                IF clock_timestamp() > last_try_at THEN RAISE; END IF;
            END;
            PERFORM pg_sleep(0.2);
        END LOOP;
    END $$
"""


def lock_tables(*tables: str, mode: Literal["ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE"] = "ACCESS EXCLUSIVE") -> None:
    """Locks several tables until the end of the migration. Call it first if a migration changes more than one existing table.

    If the migration waited for one table while it has locked another one, a request that uses both could deadlock with it. So
    this function locks all tables or none: after a short wait it releases its locks, lets requests go on, and tries again.
    After ten seconds of tries the migration fails, and can be run again.

    Before the tries it locks the tables and partitions one by one and releases each at once, because a longer wait is needed to
    make Postgres cancel an autovacuum. This may add up to 1.5 seconds for each of them.
    """
    names = ", ".join(f"'{table}'" for table in tables)
    op.execute(_LOCK_TABLES.format(names=names, tables=", ".join(tables), mode=mode))
