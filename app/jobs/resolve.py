"""Find creations whose process died between the two commits, and say so: `pending` becomes `unknown`, never a second dial."""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.calls import repository
from app.database import Database
from app.observability import Metrics

logger = structlog.stdlib.get_logger(__name__)

BATCH = 100


@dataclass(frozen=True, slots=True)
class Resolver:
    database: Database
    metrics: Metrics
    longest_life: timedelta

    async def step(self) -> bool:
        """Mark a batch of abandoned creations; False when there was none."""
        async with self.database.begin() as session:
            abandoned = await repository.claim_abandoned(session, older_than=self.longest_life, limit=BATCH)
            for call in abandoned:
                await repository.mark_unknown(session, call)
                await repository.add_event(session, call.id, "call.unknown", {"reason": "abandoned"})
        for call in abandoned:
            self.metrics.abandoned.inc()
            logger.warning("creation_abandoned", call_id=str(call.id))
        return bool(abandoned)
