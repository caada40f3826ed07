"""Everything about Postgres that knows no table: engine, pool for hot statements, batcher, listener, partitions."""

from app.database.base import Base
from app.database.engine import Database, Server, Session, make_engine
from app.database.partitions import Partition, drop_partition, expired_partitions, lock_briefly, make_partitions

__all__ = [
    "Base",
    "Database",
    "Partition",
    "Server",
    "Session",
    "drop_partition",
    "expired_partitions",
    "lock_briefly",
    "make_engine",
    "make_partitions",
]
