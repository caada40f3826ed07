"""Access to Postgres: engine, connection pool, batcher, listener, partitions, heartbeats of workers.

Except the heartbeats, which have a table of their own, nothing here depends on the tables.
"""
