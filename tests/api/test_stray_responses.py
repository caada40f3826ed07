"""Stray responses on kept connections: no phone rings twice, and no ring is reported as not started."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Behaviour, Upstream, created, proxy_page, running_upstream

CREATIONS, AT_ONCE = 200, 24


def created_and_stray(stray: Behaviour) -> Behaviour:
    """A new call; behind a third of the answers comes another one, within some milliseconds."""
    chance = random.Random(14)  # noqa: S311 - the same in every run

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await created()(upstream, reader, writer)
        if chance.random() < 1 / 3:
            await asyncio.sleep(chance.uniform(0, 0.01))
            await stray(upstream, reader, writer)

    return behave


@pytest.mark.parametrize("status", [429, 400])
async def test_stray_responses_neither_place_a_call_twice_nor_hide_one(gateway: Gateway, status: int) -> None:
    room = asyncio.Semaphore(AT_ONCE)
    async with running_upstream(created_and_stray(proxy_page(status))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)

        async def create(number: int) -> tuple[str, Any]:
            async with room:
                response = await tenant.create(to=f"sip:kate{number}@example.com")
                return f"sip:kate{number}@example.com", response.json()

        told = dict(await asyncio.gather(*map(create, range(CREATIONS))))
    rang = Counter(dict(post.form)["To"] for post in upstream.posts)
    assert max(rang.values()) == 1
    hidden = [to for to, answered in told.items() if answered["execution"] == "not_started" and rang[to]]
    assert hidden == []
    assert len({answered["sid"] for answered in told.values() if answered.get("sid")}) == sum(
        answered["execution"] == "started" for answered in told.values()
    )
