"""Access to Postgres: engine, connection pool, batcher, listener, partitions, heartbeats of workers.

The module `heartbeats` has a table of its own. The other modules depend on no table.
"""
