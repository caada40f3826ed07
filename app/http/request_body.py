"""Reads the whole body before the request is processed: a slow client holds no creation slot and no database connection."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app.errors import BodyTooLarge, RequestTimeout
from app.http.limits import MAX_BODY_BYTES


async def read_body(receive: Receive, *, timeout_s: float) -> bytes:
    """Returns the whole body. Raises BodyTooLarge, RequestTimeout or ClientDisconnect."""
    try:
        async with asyncio.timeout(timeout_s):
            message = await _next_message(receive)
            body: bytes = message.get("body", b"")
            while message.get("more_body", False):
                message = await _next_message(receive)
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise BodyTooLarge
    except TimeoutError:
        raise RequestTimeout from None
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge
    return body


async def _next_message(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives the body as one message, then the server's own messages."""
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
