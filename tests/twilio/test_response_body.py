"""Tests that a response's body is read up to a limit, and that a small compressed body cannot fill the memory."""

import gzip
import tracemalloc

import httpx
import pytest

from app.twilio.response_body import BodyTooLong, read_response_body

LIMIT = 1024 * 1024
SMALL = gzip.compress(b"0" * 100_000_000)


async def test_a_body_that_expands_to_more_than_the_limit_is_decompressed_in_parts() -> None:
    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(SMALL))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLong):
            await read_response_body(response, limit=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


async def test_a_body_that_is_compressed_twice_is_not_read() -> None:
    response = httpx.Response(200, headers={"Content-Encoding": "gzip, gzip"}, stream=httpx.ByteStream(gzip.compress(SMALL)))
    with pytest.raises(httpx.DecodingError):
        await read_response_body(response, limit=LIMIT)


@pytest.mark.parametrize("size", [0, 1, 5_000, LIMIT])
async def test_a_compressed_body_is_read_whole(size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(gzip.compress(body)))
    assert await read_response_body(response, limit=LIMIT) == body
