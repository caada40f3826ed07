"""Terminates TLS in front of a Postgres without TLS support, as the proxy of a managed database does."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

from tests.support.pooler import pass_on


@asynccontextmanager
async def behind_tls(
    database_url: str, pem: Path, *, direct: bool = False, client_certificates: bool = False
) -> AsyncIterator[str]:
    """Yields a URL of the same database, at which only TLS is accepted. `pem` is a file with the server's key and certificate.

    If `direct` is true, a connection begins with TLS, without Postgres's SSLRequest. If `client_certificates` is true, clients
    must present the certificate in `pem`.
    """
    url = make_url(database_url)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    context.set_alpn_protocols(["postgresql"])
    if client_certificates:
        context.load_verify_locations(pem)
        context.verify_mode = ssl.CERT_REQUIRED
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            if not direct:
                await reader.readexactly(8)  # SSLRequest
                writer.write(b"S")
                await writer.start_tls(context)
            from_server, to_server = await asyncio.open_connection(url.host, url.port)
            async with asyncio.TaskGroup() as both:
                both.create_task(pass_on(reader, to_server))
                both.create_task(pass_on(from_server, writer))
        except* (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context if direct else None)
    try:
        port = server.sockets[0].getsockname()[1]
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
