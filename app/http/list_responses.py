"""Responses with one long array, sent in chunks, so they neither fill the memory nor block the event loop."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json

from app.errors import CallgateError, ResponseTruncated

_MEDIA_TYPE = "application/json"


async def list_response(name: str, chunks: AsyncIterator[bytes], rest: Mapping[str, Any] | None = None) -> Response:
    """Returns a response with a JSON object: an array in the member `name`, then the members of `rest`.

    Each of `chunks` holds some items of the array as JSON, joined by commas. An error while the first two chunks are read is
    raised here, before the response starts. A CallgateError in a later chunk becomes ResponseTruncated, raised while the body
    is sent.
    """
    # These are CHUNKS_BEFORE_RESPONSE chunks: until they are read, an error can still be the answer.
    first = await anext(chunks, b"")
    second = await anext(chunks, None)
    head, tail = b'{"%b":[' % name.encode(), b"]," + to_json(rest)[1:] if rest else b"]}"
    if second is None:
        return Response(head + first + tail, media_type=_MEDIA_TYPE)

    async def body() -> AsyncIterator[bytes]:
        yield head + first + b"," + second
        try:
            async for chunk in chunks:
                yield b"," + chunk
        except CallgateError as error:
            raise ResponseTruncated(error.slug) from error
        yield tail

    return StreamingResponse(body(), media_type=_MEDIA_TYPE)
