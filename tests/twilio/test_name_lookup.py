"""Tests that connections to a host that begin at about the same time share one lookup of the host's addresses."""

import asyncio
import socket

import pytest

from app.twilio.name_lookup import Addresses, NameLookup

ADDRESSES: Addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]


class Resolver:
    """A resolver that records each lookup, and answers when the test sets `released`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.released = asyncio.Event()
        self.error: OSError | None = None

    async def get_addresses(self, host: str, port: int) -> Addresses:
        self.asked.append((host, port))
        await self.released.wait()
        if self.error:
            raise self.error
        return ADDRESSES


async def test_those_who_wait_share_a_look_up_and_it_is_kept() -> None:
    resolver = Resolver()
    names = NameLookup(resolver.get_addresses)
    waiting = [asyncio.create_task(names.look_up_addresses("a.example", 443)) for _ in range(50)]
    other = asyncio.create_task(names.look_up_addresses("b.example", 443))
    await asyncio.sleep(0)
    resolver.released.set()
    assert [*await asyncio.gather(*waiting, other)] == [ADDRESSES] * 51
    assert await names.look_up_addresses("a.example", 443) == ADDRESSES
    assert resolver.asked == [("a.example", 443), ("b.example", 443)]


async def test_a_canceled_caller_leaves_the_look_up_to_the_others() -> None:
    resolver = Resolver()
    names = NameLookup(resolver.get_addresses)
    first, second = (asyncio.create_task(names.look_up_addresses("a.example", 443)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    resolver.released.set()
    assert await second == ADDRESSES
    assert len(resolver.asked) == 1


async def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    resolver = Resolver()
    names = NameLookup(resolver.get_addresses)
    resolver.error = socket.gaierror("no such name")
    waiting = [asyncio.create_task(names.look_up_addresses("a.example", 443)) for _ in range(3)]
    await asyncio.sleep(0)
    resolver.released.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [socket.gaierror] * 3
    resolver.error = None
    assert await names.look_up_addresses("a.example", 443) == ADDRESSES
    assert len(resolver.asked) == 2


async def test_addresses_are_looked_up_again_after_a_while() -> None:
    resolver = Resolver()
    resolver.released.set()
    names = NameLookup(resolver.get_addresses, ttl_s=0)
    for _ in range(2):
        assert await names.look_up_addresses("a.example", 443) == ADDRESSES
        await asyncio.sleep(0.01)
    assert len(resolver.asked) == 2


async def test_a_real_name_is_found_and_another_is_not() -> None:
    names = NameLookup()
    assert {address[4][0] for address in await names.look_up_addresses("127.0.0.1", 80)} == {"127.0.0.1"}
    with pytest.raises(socket.gaierror):
        await names.look_up_addresses("no-such-name.invalid", 80)
