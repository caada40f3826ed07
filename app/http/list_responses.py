"""Builds JSON responses with one long array. Sends them in chunks, to save memory and not block the event loop."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json

from app.errors import CallgateError, ResponseTruncated
from app.http.concurrency import CHUNKS_BEFORE_RESPONSE

_JSON_MEDIA_TYPE = "application/json"


async def list_response(name: str, chunks: AsyncIterator[bytes], other_members: Mapping[str, Any] | None = None) -> Response:
    """Returns a response with a JSON object: an array in the member `name`, then `other_members`.

    Each of `chunks` holds some items of the array as JSON, joined by commas. An error while the first CHUNKS_BEFORE_RESPONSE
    chunks are read is raised by this function, before the response starts. A CallgateError in a later chunk becomes
    ResponseTruncated, raised while the body is sent.
    """
    first: list[bytes] = []
    while len(first) < CHUNKS_BEFORE_RESPONSE and (chunk := await anext(chunks, None)) is not None:
        first.append(chunk)
    head = b'{"%b":[' % name.encode() + b",".join(first)
    tail = b"]," + to_json(other_members)[1:] if other_members else b"]}"
    if len(first) < CHUNKS_BEFORE_RESPONSE:
        return Response(head + tail, media_type=_JSON_MEDIA_TYPE)

    async def body() -> AsyncIterator[bytes]:
        yield head
        try:
            async for chunk in chunks:
                yield b"," + chunk
        except CallgateError as error:
            raise ResponseTruncated(error.slug) from error
        yield tail

    return StreamingResponse(body(), media_type=_JSON_MEDIA_TYPE)
