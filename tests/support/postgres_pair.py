"""A primary and a streaming standby, each a real server of the embedded PostgreSQL."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from sqlalchemy import URL, make_url

from app.local.postgres import NOBODY_UID, EmbeddedPostgres, remove_postgres_data


class PostgresServer(EmbeddedPostgres):
    """A server of the pair: a primary, or a standby that was made from the base backup of `primary`."""

    def __init__(self, directory: Path, primary: "PostgresServer | None" = None) -> None:
        super().__init__(directory)
        self._primary = primary

    @property
    def address(self) -> URL:
        return make_url(self.url)

    def kill(self) -> None:
        """Kills all processes of the server at once, as a machine failure does."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _create_data_folder(self) -> None:
        if self._primary is None:
            super()._create_data_folder()
            return
        new = self._home / "data.new"
        new.mkdir(mode=0o700)
        (self._home / "password").write_text(self._primary.address.password or "")
        if os.geteuid() == 0:
            os.chown(new, NOBODY_UID, NOBODY_UID)
        source = self._primary.address.set(drivername="postgresql").render_as_string(hide_password=False)
        self._run_postgres_program(
            "pg_basebackup", "-D", new, "-d", source, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"
        )
        new.rename(self._home / "data")


@dataclass(frozen=True)
class PostgresPair:
    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """Returns a database URL with both servers. Clients connect to the server that accepts writes."""
        first, second = self.primary.address, self.standby.address
        hosts = f"{first.host}:{first.port},{second.host}:{second.port}"
        return f"postgresql://{first.username}:{first.password}@{hosts}/{first.database}?target_session_attrs=read-write"


@contextmanager
def postgres_pair() -> Iterator[PostgresPair]:
    with ExitStack() as ended:
        nodes: list[PostgresServer] = []
        for name in ("primary", "standby"):
            directory = Path(tempfile.mkdtemp(prefix=f"callgate-{name}-"))
            directory.chmod(0o755)  # root's Postgres runs as the user nobody
            ended.callback(shutil.rmtree, directory)
            ended.callback(remove_postgres_data, directory)
            nodes.append(ended.enter_context(PostgresServer(directory, *nodes)))
        yield PostgresPair(*nodes)
