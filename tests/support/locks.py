"""SQL about the sessions in the current database that wait for a lock. Other databases of the server do not count."""

# pg_stat_activity is not used, because what it returns does not change within a transaction. A session that waits for a row
# waits for the lock of a transaction, which has no database. Another lock that the session holds shows its database.
_FROM_SESSIONS = """
    FROM pg_locks AS waiting JOIN pg_locks AS held USING (pid) JOIN pg_database ON oid = held.database
    WHERE NOT waiting.granted AND datname = current_database()
"""
SESSION_WAITS_FOR_LOCK_SQL = f"SELECT EXISTS (SELECT {_FROM_SESSIONS})"
COUNT_WAITING_SESSIONS_SQL = f"SELECT count(DISTINCT pid) {_FROM_SESSIONS}"
