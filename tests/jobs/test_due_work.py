"""Tests the statement with which a worker asks which of its jobs have work: it names exactly the jobs that have work."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from app.jobs.store import jobs_with_due_work
from tests.support.gateway import Gateway
from tests.support.upstream import created, running_upstream

ABANDONED_AFTER = timedelta(minutes=2)
DUE = {
    "refresh": "UPDATE call SET refresh_at = now() WHERE id = :id",
    "abandoned": "UPDATE call SET execution = 'pending', sid = NULL, pending_since = now() - interval '3 min' WHERE id = :id",
    "search": "UPDATE call SET search_at = now() WHERE id = :id",
    "control": "INSERT INTO wanted_update (call_id, attempt, status, due_at) VALUES (:id, 1, 'canceled', now())",
    "deadlines": """
        INSERT INTO dial_slot (call_id, account_id, until, ring_by)
        SELECT id, account_id, now() + interval '1 h', now() FROM call WHERE id = :id
    """,
    "dial": """
        INSERT INTO scheduled_dial (call_id, tenant_id, account_id, queue_id, caller_id, priority, not_before, ring_by, due_at)
        SELECT id, tenant_id, account_id, account_id, account_id, 0, now(), now() + interval '1 h', now()
        FROM call WHERE id = :id
    """,
    "deliver": """
        INSERT INTO delivery (id, call_id, at, tenant_id, event, position)
        SELECT gen_random_uuid(), id, now() - interval '1 year', tenant_id, 'completed', 3 FROM call WHERE id = :id
    """,
}
NOT_DUE = (
    "DELETE FROM wanted_update",
    "DELETE FROM dial_slot",
    "DELETE FROM scheduled_dial",
    "UPDATE delivery SET next_attempt_at = now() + interval '1 h' WHERE next_attempt_at IS NOT NULL",
    "UPDATE call SET refresh_at = now() + interval '1 h', search_at = now() + interval '1 h'",
    "UPDATE call SET execution = 'unknown' WHERE execution = 'pending'",
)


@pytest.mark.parametrize("job", DUE)
async def test_a_job_is_named_when_it_has_due_work(gateway: Gateway, job: str) -> None:
    async with running_upstream(created()) as upstream:
        tenant = await gateway.add_tenant(upstream.url)
        call_id = (await tenant.create()).json()["id"]
    async with gateway.database.begin() as session:
        for statement in NOT_DUE:
            await session.execute(text(statement))
    assert await jobs_with_due_work(gateway.database, abandoned_after=ABANDONED_AFTER) == set()
    async with gateway.database.begin() as session:
        await session.execute(text(DUE[job]), {"id": call_id})
    assert await jobs_with_due_work(gateway.database, abandoned_after=ABANDONED_AFTER) == {job}
    async with gateway.database.begin() as session:
        for statement in NOT_DUE:
            await session.execute(text(statement))
