"""Access to Postgres, independent of the tables: engine, connection pool, batcher, listener, partitions."""
