"""Creates the monthly partitions of tables for the coming months."""

from dataclasses import dataclass

from app.audit.models import AuditEvent
from app.calls.models import CallEvent
from app.database.engine import Database
from app.database.partitions import create_missing_partitions
from app.deliveries.models import Delivery

MONTHS_AHEAD = 3
AUDIT_TABLES = (AuditEvent.__tablename__,)
CALL_TABLES = (CallEvent.__tablename__, Delivery.__tablename__)
PARTITIONED_TABLES = (*AUDIT_TABLES, *CALL_TABLES)


@dataclass(frozen=True, slots=True)
class PartitionCreator:
    database: Database

    async def step(self) -> bool:
        """Creates the missing monthly partitions. Returns false, so that the job pauses before the next time."""
        async with self.database.begin() as session:
            for table in PARTITIONED_TABLES:
                await create_missing_partitions(session, table, months_ahead=MONTHS_AHEAD)
        return False
