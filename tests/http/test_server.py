"""Tests the server whose main loop wakes up once a second: its `Date` header stays current, and SIGTERM ends it at once."""

import asyncio
import signal
import sys
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from fastapi import FastAPI

from tests.support.clients import http_client
from tests.support.gateway import running_app

# Ends itself by SIGTERM as soon as it serves. The handler runs while the event loop waits.
PROGRAM = """
import os, signal, threading
from app.http.listening import open_listening_sockets
from app.http.server import Server, server_config

async def app(scope, receive, send):
    await receive()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("shut down", flush=True)
    await send({"type": "lifespan.shutdown.complete"})

Server(server_config(app)).run(open_listening_sockets("127.0.0.1", 0))
"""


async def test_the_date_is_that_of_the_response() -> None:
    async with running_app(FastAPI()) as url, http_client(base_url=url) as http:
        for _ in range(3):
            date = parsedate_to_datetime((await http.get("/")).headers["Date"])
            assert abs(datetime.now(UTC) - date) < timedelta(seconds=10)
            dates = {(await http.get("/")).headers["Date"]}
            async with asyncio.timeout(30):
                while len(dates) < 2:
                    dates.add((await http.get("/")).headers["Date"])
                    await asyncio.sleep(0.05)


async def test_sigterm_ends_the_server() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert (output, process.returncode) == (b"shut down\n", -signal.SIGTERM)
