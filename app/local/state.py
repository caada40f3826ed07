"""The state folder (`.callgate/`): keeps the data of `callgate dev` between runs, and the database URL for other commands."""

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from pydantic import SecretStr

from app.errors import CommandFailed
from app.settings import Settings


class StateFolderUnusable(CommandFailed):
    """The state folder cannot be created. The message says why and what to do, in one line."""


class StackAlreadyRunning(CommandFailed):
    """A `callgate dev` or `callgate demo` uses this state folder. The message has the address of its API."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """The addresses and settings of a `callgate dev` or `callgate demo` that is running now."""

    api_url: str
    simulator_url: str | None
    database_url: str
    secret_keys: str
    # The settings of its processes, so that `callgate doctor` and other commands use the same ones.
    twilio_base_url: str
    public_url: str | None
    delivery_allow: str | None


class StateFolder:
    """The state folder (`.callgate/`), which keeps the data of `callgate dev` and `callgate demo` between runs.

    Its files hold encryption keys and passwords, so only their owner can read them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running = directory / "dev.json"
        self._secret_key = directory / "secret_key"
        self.demo_key = directory / "demo_key"
        self.demo_log = directory / "demo.log"

    def create(self) -> None:
        """Creates the folder if it is missing. Raises StateFolderUnusable if this fails."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateFolderUnusable(
                f"the state folder {self.directory} cannot be created ({error.strerror}): set CALLGATE_STATE_DIR to another"
            ) from error

    def get_or_create_secret_keys(self) -> SecretStr:
        """Returns the encryption key for the local database. Creates the key the first time."""
        if not self._secret_key.exists():
            self.write(self._secret_key, base64.b64encode(secrets.token_bytes(32)).decode())
        return SecretStr(self._secret_key.read_text().strip())

    def write(self, file: Path, content: str) -> None:
        """Writes the file atomically, so that no reader sees a part of the content. Only this user can read the file."""
        with self._written_and_locked(file, content):
            pass

    @contextmanager
    def _written_and_locked(self, file: Path, content: str) -> Iterator[TextIO]:
        """Writes the file as `write` does, yields it as an open file, and keeps it locked until the block ends.

        The file is locked before it gets its name, so no other process sees it unlocked.
        """
        new = file.with_name(f"{file.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(content + "\n")
            stream.flush()
            new.replace(file)
            yield stream

    @contextmanager
    def announced_as_running(self, running: RunningStack) -> Iterator[None]:
        """Writes `running` to a file for other commands, and deletes the file at the end of the block.

        The file is locked until then, so that other commands see that this process still runs. Raises StackAlreadyRunning if
        another `callgate dev` or `callgate demo` uses this folder.
        """
        self.require_not_running()
        with self._written_and_locked(self._running, json.dumps(asdict(running))) as held:
            try:
                yield
            finally:
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(held.fileno()), self._running.stat()):  # it may be another process's file
                        self._running.unlink()

    def require_not_running(self) -> None:
        """Raises StackAlreadyRunning if a `callgate dev` or `callgate demo` uses this folder."""
        if running := self.find_running_stack():
            raise StackAlreadyRunning(
                f"`callgate dev` or `demo` runs over {self.directory}, at {running.api_url}: stop it first"
            )

    def find_running_stack(self) -> RunningStack | None:
        """Returns what a running process has written with `announced_as_running`; None if no such process runs."""
        try:
            with self._running.open() as file:
                try:
                    # Shared, because other commands may be looking, too.
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return RunningStack(**json.load(file))
        except (OSError, ValueError, TypeError):
            return None
        return None

    def remove(self) -> None:
        """Deletes the files that Callgate has created in the folder, and then the folder if it is empty.

        Does not delete the data of Postgres: `postgres.remove_postgres_data` does.
        """
        if not self.directory.is_dir():
            return
        names = ("dev.json", "secret_key", "demo_key", "demo.log", "postgres.lock")
        for name in (*names, *(f"{name}.new" for name in names)):
            (self.directory / name).unlink(missing_ok=True)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()


def settings_with_local_database(settings: Settings) -> Settings:
    """Returns the settings with the database, encryption keys and URLs of a running `callgate dev` or `callgate demo`.

    Returns the settings unchanged if neither of them runs, or if CALLGATE_DATABASE_URL is set.
    """
    running = None if settings.database_url else StateFolder(settings.state_dir).find_running_stack()
    if running is None:
        return settings
    found = {
        "database_url": SecretStr(running.database_url),
        "secret_keys": SecretStr(running.secret_keys),
        "twilio_base_url": running.twilio_base_url,
        "public_url": running.public_url,
        "delivery_allow": running.delivery_allow,
    }
    return settings.model_copy(update=found)
