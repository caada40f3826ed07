"""A request's body, whole before anything is done with the request: nothing is held for a client that sends slowly."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app.errors import BodyTooLarge, RequestTimeout
from app.http.limits import BODY_LIMIT


async def read_body(receive: Receive, *, timeout_s: float) -> bytes:
    """Raises BodyTooLarge, RequestTimeout, or ClientDisconnect."""
    try:
        async with asyncio.timeout(timeout_s):
            message = await _next(receive)
            body: bytes = message.get("body", b"")
            while message.get("more_body", False):
                message = await _next(receive)
                body += message.get("body", b"")
                if len(body) > BODY_LIMIT:
                    raise BodyTooLarge
    except TimeoutError:
        raise RequestTimeout from None
    if len(body) > BODY_LIMIT:
        raise BodyTooLarge
    return body


async def _next(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


def replaying(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever the server has to say."""
    told = False

    async def receive_again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
