"""What sessions of a test's own database wait for. Other tests use the same Postgres at the same time."""

# Not pg_stat_activity, whose answer does not change within a transaction.
SESSION_WAITS_FOR_LOCK = """
    SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE NOT granted AND datname = current_database())
"""
