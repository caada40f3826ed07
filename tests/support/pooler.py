"""A proxy in front of Postgres that replaces the server's process id with its own, as connection poolers do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url

_BACKEND_KEY_DATA = b"K\x00\x00\x00\x0c"


@asynccontextmanager
async def behind_a_pooler(database_url: str) -> AsyncIterator[str]:
    """Yields the URL of the same database through the proxy. Each client has its own server connection."""
    url = make_url(database_url)
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        from_server, to_server = await asyncio.open_connection(url.host, url.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pass_on(reader, to_server))
                both.create_task(pass_on(from_server, writer, replaces_process_id=True))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            to_server.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replaces_process_id: bool = False) -> None:
    """Forwards data until one side closes.

    If `replaces_process_id` is true, replaces the process id in the first BackendKeyData message.
    """
    while data := await reader.read(65536):
        if replaces_process_id and (at := data.find(_BACKEND_KEY_DATA)) >= 0:
            replaces_process_id = False
            data = data[: at + 5] + (2**31 - 1).to_bytes(4) + data[at + 9 :]
        writer.write(data)
        await writer.drain()
    writer.close()
