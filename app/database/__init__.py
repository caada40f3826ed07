"""Everything about Postgres that knows no table: engine, pool for hot statements, batcher, listener, partitions."""
