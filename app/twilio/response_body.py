"""Reads the body of a response up to a limit, so that a server cannot fill the memory."""

from collections.abc import AsyncIterable, AsyncIterator

import httpx

# gzip expands data a thousandfold at most, so one decoded piece has at most 4 MiB.
_PIECE_BYTES = 4 * 1024


class BodyTooLong(Exception):
    """The body is longer than the limit. The rest of it is not read."""


async def read_response_body(response: httpx.Response, *, limit: int) -> bytes:
    """Returns the decoded body. Raises BodyTooLong if the body has more than `limit` bytes. Also raises httpx's errors.

    The caller closes the response.
    """
    body = bytearray()
    async for chunk in decoded_chunks(response):
        body += chunk
        if len(body) > limit:
            raise BodyTooLong
    return bytes(body)


def decoded_chunks(response: httpx.Response) -> AsyncIterable[bytes]:
    """Returns the decoded body piece by piece. Raises DecodingError if the body has more than one content encoding."""
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        return response.aiter_bytes()
    if "content-encoding" not in response.headers:
        return stream  # httpx's decoding wrapper takes longer than the reading, even where there is nothing to decode
    if "," in response.headers["content-encoding"]:
        raise httpx.DecodingError("the body is encoded more than once")
    response.stream = _SmallPieces(stream)
    return response.aiter_bytes()


class _SmallPieces(httpx.AsyncByteStream):
    """Splits a compressed stream into small pieces, so that no piece fills the memory when it is decoded."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            for start in range(0, len(chunk), _PIECE_BYTES):
                yield chunk[start : start + _PIECE_BYTES]

    async def aclose(self) -> None:
        await self._stream.aclose()
