"""SQL that tells whether a session in the current database waits for a lock. Other databases of the server do not count."""

# Not pg_stat_activity, whose answer does not change within a transaction. A session that waits for a row waits for a
# transaction, which belongs to no database. The session's other locks do.
SESSION_WAITS_FOR_LOCK = """
    SELECT EXISTS (SELECT FROM pg_locks AS waiting JOIN pg_locks AS held USING (pid) JOIN pg_database ON oid = held.database
    WHERE NOT waiting.granted AND datname = current_database())
"""
