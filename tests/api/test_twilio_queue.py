"""Callgate counts the calls that Twilio puts into its queue because the account's rate is exceeded, and logs a warning.

The warning is logged at most once a minute for each account.
"""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.calls.creation import twilio_queue
from app.calls.creation.twilio_queue import TwilioQueueWatch
from app.calls.models import Call
from app.observability import Metrics
from simulator.config import SimulatorConfig
from simulator.limits import AccountLimits
from simulator.main import create_app as create_simulator
from tests.support.gateway import running_app, running_gateway, settings_for
from tests.support.logs import logging_to

COUNTER = "callgate_twilio_queued_total"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    with logging_to(stream, format_="json"):
        yield stream


def warnings(log: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["event"] == "twilio_queues_calls"]


async def test_calls_that_twilio_queues_are_counted_and_warned_of(database_url: str, log: io.StringIO) -> None:
    midnight = datetime(2026, 11, 29, tzinfo=UTC)
    config = SimulatorConfig(open_mode=True, clock=lambda: midnight, limits=AccountLimits(calls_per_second=1))
    async with running_app(create_simulator(config)) as url, running_gateway(settings_for(database_url)) as gateway:
        tenant = await gateway.add_tenant(url)
        records = [(await tenant.create()).raise_for_status().json() for _ in range(3)]
        metrics = (await tenant.http.get("/metrics")).text
    assert [record["queue_time"] for record in records] == [0, 1000, 2000]
    assert f"{COUNTER} 2.0" in metrics
    warning = warnings(log)[0]
    assert (warning["level"], warning["call_id"]) == ("warning", records[1]["id"])
    assert (warning["tenant_id"], warning["account_sid"], warning["queue_time_ms"]) == (tenant.id, tenant.account_sid, 1000)


@pytest.mark.parametrize("slow_when_queued", [False, True])
async def test_an_account_pauses_while_twilio_queues_its_calls(database_url: str, *, slow_when_queued: bool) -> None:
    midnight = datetime(2026, 11, 29, tzinfo=UTC)
    config = SimulatorConfig(open_mode=True, clock=lambda: midnight, limits=AccountLimits(calls_per_second=0.01))
    settings = settings_for(database_url, slow_when_queued=slow_when_queued)
    async with running_app(create_simulator(config)) as url, running_gateway(settings) as gateway:
        tenant = await gateway.add_tenant(url)
        pace = "INSERT INTO pace (subject_id, calls_per_second, burst) SELECT id, 1000, 1000 FROM twilio_account"
        await gateway.database.fetch(f"{pace} WHERE tenant_id = $1", tenant.id)
        gateway.invalidate_cache()
        answers = [await tenant.create() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 503 if slow_when_queued else 201]
    if slow_when_queued:
        assert answers[2].json()["type"] == "urn:callgate:problem:paced"
        assert 55 <= int(answers[2].headers["retry-after"]) <= 62


class Watch:
    """A TwilioQueueWatch whose clock stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.watch = TwilioQueueWatch(self.metrics.twilio, clock=lambda: self.now)

    def note(self, account_id: UUID) -> None:
        self.watch.record_queued_call(
            Call(id=uuid4(), account_id=account_id, account_sid="AC1", tenant_id="shop"), queue_time_ms=1000
        )


def test_an_account_is_warned_of_at_most_once_a_minute(log: io.StringIO) -> None:
    watch, one, other = Watch(), uuid4(), uuid4()
    for now, account, expected in ((0, one, 1), (59, one, 1), (59, other, 2), (60, one, 3), (118, other, 3), (119, other, 4)):
        watch.now = now
        watch.note(account)
        assert len(warnings(log)) == expected, now
    assert watch.metrics.registry.get_sample_value(COUNTER) == 6


def test_what_is_known_of_accounts_is_bounded(log: io.StringIO) -> None:
    watch = Watch()
    for _ in range(twilio_queue.MAX_REMEMBERED_ACCOUNTS + 1):
        watch.note(uuid4())
    assert len(watch.watch) == 1
