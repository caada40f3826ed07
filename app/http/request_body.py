"""Reads request bodies, with limits of size and time.

Most bodies are read as a whole before the request is processed, so that a slow client occupies no database connection.
"""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app.errors import BodyTooLarge, RequestTimeout
from app.http.limits import MAX_BODY_BYTES


async def read_body(receive: Receive, *, timeout_s: float) -> bytes:
    """Returns the whole body.

    Raises BodyTooLarge if it is longer than MAX_BODY_BYTES, RequestTimeout if it is incomplete after `timeout_s` seconds, and
    ClientDisconnect if the client disconnects.
    """
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


def limit_body(receive: Receive, *, limit: int, timeout_s: float) -> Receive:
    """Returns an ASGI `receive` for an endpoint that reads the body itself, after it has authenticated the client.

    The returned function raises BodyTooLarge after `limit` bytes. It raises RequestTimeout if the body is still incomplete
    `timeout_s` seconds after the function was first called.
    """
    deadline: float | None = None
    received = 0
    is_complete = False

    async def receive_limited() -> Message:
        nonlocal deadline, received, is_complete
        if is_complete:
            return await receive()
        deadline = deadline or asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                message = await _next_message(receive)
        except TimeoutError:
            raise RequestTimeout from None
        received += len(message.get("body", b""))
        if received > limit:
            raise body_too_large_error(limit)
        is_complete = not message.get("more_body", False)
        return message

    return receive_limited


def body_too_large_error(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is longer than the limit of {limit} bytes.")


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Returns an ASGI `receive` for a request whose body was already read.

    The first call of the returned function returns a message with `body`. Later calls return what the given `receive` returns.
    """
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
