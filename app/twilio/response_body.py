"""Reads the body of a response up to a limit: what a server sends must not fill the memory."""

from collections.abc import AsyncIterable

import httpx


class BodyTooLong(Exception):
    """The body is longer than the limit. The rest of it is not read."""


async def read_response_body(response: httpx.Response, *, limit: int) -> bytes:
    """Returns the decoded body. Raises BodyTooLong if it has more than `limit` bytes, and httpx's errors.

    The caller closes the response.
    """
    body = bytearray()
    # httpx's decoding wrapper takes longer than the reading, even where there is nothing to decode.
    chunks: AsyncIterable[bytes] = response.aiter_bytes()
    if "content-encoding" not in response.headers and isinstance(response.stream, httpx.AsyncByteStream):
        chunks = response.stream
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise BodyTooLong
    return bytes(body)
