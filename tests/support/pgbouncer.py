"""Runs a real PgBouncer in front of the tests' Postgres, if it is installed (`.ci/from-trixie --libraries-of pgbouncer`)."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

from tests.cli.running import free_port
from tests.support.tools import needs_program

PGBOUNCER = shutil.which("pgbouncer")
needs_pgbouncer = needs_program("pgbouncer")

_STARTS_WITHIN_S = 20.0
_CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
default_pool_size = {pool_size}
"""


@asynccontextmanager
async def pgbouncer(database_url: str, *, pool_size: int = 3, **settings: object) -> AsyncIterator[str]:
    """Yields the URL of the same database through PgBouncer. All clients share `pool_size` server connections."""
    url, port = make_url(database_url), free_port()
    directory = Path(tempfile.mkdtemp(prefix="callgate-pgbouncer-"))
    os.chmod(directory, 0o755)  # noqa: PTH101, S103 - root's PgBouncer runs as nobody
    text = _CONFIGURATION.format(
        host=url.host, port=url.port, user=url.username, password=url.password, listen_port=port, pool_size=pool_size
    ) + "".join(f"{name} = {value}\n" for name, value in settings.items())
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(text)
    command = [PGBOUNCER or "pgbouncer", *(["-u", "nobody"] if os.geteuid() == 0 else []), str(configuration)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(_STARTS_WITHIN_S):
            while not _listens(port):
                assert process.poll() is None, (directory / "log").read_text()
                await asyncio.sleep(0.05)
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
