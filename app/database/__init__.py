"""Access to Postgres that is independent of any table: engine, connection pool, batcher, listener, partitions."""
