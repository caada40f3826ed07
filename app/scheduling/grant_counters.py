"""How many grants of each account a worker knows of, in memory and in a folder outside the database.

The row `pace` of an account counts its grants, in the transaction that makes them. If it has fewer than are known, the
database has lost grants whose calls may have been dialled: it was restored, also from a snapshot that has the identity of its
server, or a standby was promoted that lagged behind.

With a folder, a number is on disk before a call of its grant is dialled, and the numbers of all workers that share the folder
are read before each grant. Each worker writes files of its own, which only grow.
"""

import asyncio
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import structlog

from app.errors import CommandFailed

logger = structlog.stdlib.get_logger(__name__)

_SUFFIX: Final = ".grants"
# The size at which a worker continues in a new file.
_MAX_BYTES: Final = 1_000_000
# Reads of the folder in one load: a file may be replaced by a newer one while the folder is read.
_MAX_READS: Final = 10
# A worker touches its file in each step of the guard. The numbers of files that are this old are in newer files.
_FORGET_AFTER_S: Final = 86_400.0


class GrantCount(NamedTuple):
    """The state of an account's counter. A later one is greater."""

    released: int
    """When grants were released last, in microseconds since 1970; 0: never. Counts begin again then."""
    grants: int


NO_GRANTS: Final = GrantCount(0, 0)


def check_folder(folder: Path | None) -> None:
    """Raises CommandFailed if files cannot be read and written there. None: there is no folder."""
    if folder is not None and not (folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        raise CommandFailed(f"CALLGATE_GRANT_COUNTER_DIR: {folder} is no folder that this process can read and write")


class GrantCounters:
    """The highest counts that are known to be committed. Without a folder they are those of this process."""

    def __init__(self, folder: Path | None = None) -> None:
        self._known: dict[UUID, GrantCount] = {}
        self._folder = _CounterFolder(folder) if folder else None
        self._unsaved: set[UUID] = set()

    def known(self) -> Mapping[UUID, GrantCount]:
        return self._known

    def is_behind(self, account_id: UUID, count: GrantCount) -> bool:
        """Returns whether the database has lost grants if its counter is `count`."""
        return count < self._known.get(account_id, NO_GRANTS)

    @property
    def unsaved(self) -> int:
        """The number of accounts whose latest count is not in the folder yet."""
        return 0 if self._folder is None else len(self._unsaved)

    def note(self, account_id: UUID, count: GrantCount) -> None:
        """Notes what is committed."""
        if count > self._known.get(account_id, NO_GRANTS):
            self._known[account_id] = count
            self._unsaved.add(account_id)

    async def load(self) -> None:
        """Reads what other workers have written since the last time. Raises OSError if the folder cannot be read."""
        if self._folder is not None:
            new = await asyncio.to_thread(self._folder.read_new)
            for account_id, count in new.counts:
                if count > self._known.get(account_id, NO_GRANTS):
                    self._known[account_id] = count
            # Not before: a read that fails, is canceled or goes on at the same time must not skip what this one has found.
            self._folder.skip(new.ends)

    async def save(self) -> None:
        """Writes what was noted to the disk. A failure is logged, and written with the next call."""
        if self._folder is None or not self._unsaved:
            return
        saved, self._unsaved = self._unsaved, set()
        try:
            await asyncio.to_thread(self._folder.append, {each: self._known[each] for each in saved}, dict(self._known))
        except OSError as error:
            self._unsaved |= saved
            logger.error("grant_counters_not_saved", error=type(error).__name__, errno=error.errno)

    async def keep(self) -> None:
        """Marks this worker's file as in use, and deletes files that no worker uses. Raises OSError.

        Call it after `load`.
        """
        if self._folder is not None:
            await asyncio.to_thread(self._folder.keep, dict(self._known))


class _NewLines(NamedTuple):
    """The counts of lines that were not read before, and where they end in each file."""

    counts: list[tuple[UUID, GrantCount]]
    ends: dict[str, int]


class _CounterFolder:
    """The files in the folder. Blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{uuid4()}{_SUFFIX}"
        # How much of each file was read.
        self._read: dict[str, int] = {}
        # Two threads may write. One of them must not delete the file that the other one has opened.
        self._writing = Lock()

    def read_new(self) -> _NewLines:
        """Returns the lines after those that were skipped. A file that is gone has been continued in another one."""
        found = _NewLines([], {})
        for _ in range(_MAX_READS):
            try:
                for file in self._files():
                    self._read_tail(file, found)
            except FileNotFoundError:
                continue
            return found
        raise FileNotFoundError

    def skip(self, ends: Mapping[str, int]) -> None:
        """Marks the files as read up to these ends."""
        for name, end in ends.items():
            self._read[name] = max(end, self._read.get(name, 0))

    def _read_tail(self, file: Path, found: _NewLines) -> None:
        begin = max(found.ends.get(file.name, 0), self._read.get(file.name, 0))
        if file.stat().st_size <= begin:
            return
        with file.open("rb") as stream:
            stream.seek(begin)
            # A line that is not complete is being written, or its worker was killed. Nothing was dialled yet.
            text = stream.read().rpartition(b"\n")[0]
        found.ends[file.name] = begin + len(text) + bool(text)
        found.counts.extend(count for line in text.splitlines() if (count := _parse(line)) is not None)

    def append(self, counts: Mapping[UUID, GrantCount], known: Mapping[UUID, GrantCount]) -> None:
        """Adds lines for `counts`. A new file begins with all that is `known`."""
        with self._writing:
            if self._own.exists() and self._own.stat().st_size > _MAX_BYTES:
                old, self._own = self._own, self._folder / f"{uuid4()}{_SUFFIX}"
                self._write(known)
                old.unlink()
            else:
                self._write(counts if self._own.exists() else known)

    def keep(self, known: Mapping[UUID, GrantCount]) -> None:
        """Deletes files that no worker has touched for a day, after writing their numbers to this worker's file."""
        with self._writing:
            if not self._own.exists():
                return
            os.utime(self._own)
            now = self._own.stat().st_mtime
            old = [file for file in self._files() if now - file.stat().st_mtime > _FORGET_AFTER_S]
            if old:
                self._write(known)
            for file in old:
                file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(file for file in self._folder.iterdir() if file.suffix == _SUFFIX)

    def _write(self, counts: Mapping[UUID, GrantCount]) -> None:
        lines = "".join(f"{account_id} {count.released} {count.grants}\n" for account_id, count in counts.items())
        descriptor = os.open(self._own, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # The first line break ends a line that a full disk has cut off.
            content = f"\n{lines}".encode()
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _parse(line: bytes) -> tuple[UUID, GrantCount] | None:
    """Returns None for an empty line, and for one that was cut off."""
    try:
        account_id, released, grants = line.decode().split(" ")
        return UUID(account_id), GrantCount(int(released), int(grants))
    except ValueError:
        return None
