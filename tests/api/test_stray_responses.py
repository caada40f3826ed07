"""A response that belongs to no request never makes Callgate place a call twice or hide a call that was placed."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Behaviour, Upstream, created, proxy_page, running_upstream

CREATIONS, AT_ONCE = 200, 24


def created_and_stray(stray: Behaviour) -> Behaviour:
    """Returns a behaviour of the stand-in for Twilio: it creates a call.

    After a third of its responses it sends `stray`, a response that belongs to no request, within 10 ms.
    """
    chance = random.Random(14)  # noqa: S311 - the same in every run

    async def behave(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await created()(upstream, reader, writer)
        if chance.random() < 1 / 3:
            await asyncio.sleep(chance.uniform(0, 0.01))
            await stray(upstream, reader, writer)

    return behave


@pytest.mark.parametrize("status", [429, 400])
async def test_stray_responses_neither_place_a_call_twice_nor_hide_one(gateway: Gateway, status: int) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    async with running_upstream(created_and_stray(proxy_page(status))) as upstream:
        tenant = await gateway.add_tenant(upstream.url)

        async def create(number: int) -> tuple[str, Any]:
            async with slots:
                response = await tenant.create(to=f"sip:kate{number}@example.com")
                return f"sip:kate{number}@example.com", response.json()

        answers = dict(await asyncio.gather(*map(create, range(CREATIONS))))
    posts_by_address = Counter(dict(post.form)["To"] for post in upstream.posts)
    assert max(posts_by_address.values()) == 1
    hidden = [to for to, record in answers.items() if record["execution"] == "not_started" and posts_by_address[to]]
    assert hidden == []
    assert len({record["sid"] for record in answers.values() if record.get("sid")}) == sum(
        record["execution"] == "started" for record in answers.values()
    )
