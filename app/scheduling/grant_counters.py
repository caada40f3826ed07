"""Counts the grants of each account in the worker's memory and, if configured, in a folder outside the database.

A grant is a worker's right to dial one scheduled call of an account. The account's row in `pace` counts the grants, in the
transaction that takes them. If this count is lower than one that a worker knows, the database has lost grants whose calls may
have been dialled: it was restored from a backup or a snapshot, or a standby that lagged behind was promoted.

With a folder, a worker reads the counts of all workers that share the folder before it takes a grant, and writes the new count
before it dials the call. If writing fails, it dials all the same. Each worker writes only to its own files.
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

_FILE_SUFFIX: Final = ".grants"
# The size at which a worker continues in a new file.
_MAX_FILE_BYTES: Final = 1_000_000
# A read of the folder is repeated if a worker replaces a file meanwhile.
_MAX_READ_ATTEMPTS: Final = 10
# A worker touches its file with each step of app.jobs.lost_grants, so a file that is this old belongs to no running worker.
_MAX_FILE_AGE_S: Final = 86_400.0


class DialGrantCount(NamedTuple):
    """The number of grants of an account, that is, of scheduled calls that workers were allowed to dial.

    Counts compare as tuples, first by `released_at_us`. This is the time of the last release: the command `callgate queues
    release` allows grants again after a halt. So a count from after a release is greater than every count from before it.
    """

    released_at_us: int
    """The time at which `callgate queues release` last allowed grants again, in microseconds since 1970; 0 if it never did.

    Counts with an earlier time are obsolete. app.scheduling.grant_halts also changes the time when it accepts a database that
    may have lost grants, because no scheduled call waits.
    """
    grants: int


NO_GRANTS: Final = DialGrantCount(0, 0)


def require_usable_counter_folder(folder: Path | None) -> None:
    """Raises CommandFailed if this process cannot read and write files in the folder. Does nothing if `folder` is None."""
    if folder is not None and not (folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        raise CommandFailed(f"CALLGATE_GRANT_COUNTER_DIR: {folder} is no folder that this process can read and write")


class KnownGrantCounts:
    """Remembers the highest committed number of grants (rights to dial one call) of each account.

    Knows the counts of all workers that share `folder`; without a folder, only those of this process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._known: dict[UUID, DialGrantCount] = {}
        self._folder = _CounterFolder(folder) if folder else None
        self._unsaved: set[UUID] = set()

    def known_counts(self) -> Mapping[UUID, DialGrantCount]:
        """Returns a copy of the highest known grant count of each account, by account id.

        Call this before you read the accounts' counts from the database. If the database has a lower count than the copy, the
        database has lost grants (rights to dial one call). The copy does not change when further grants are recorded. So a
        grant that is committed and recorded while the database is read does not look lost.
        """
        return dict(self._known)

    def is_below_known_count(self, account_id: UUID, count: DialGrantCount) -> bool:
        """Returns whether `count`, read from the database, is lower than the highest known count of the account.

        If so, the database has lost grants (rights to dial one call).
        """
        return count < self._known.get(account_id, NO_GRANTS)

    @property
    def unsaved_count(self) -> int:
        """The number of accounts whose latest count of grants (rights to dial a call) is not in the folder yet."""
        return 0 if self._folder is None else len(self._unsaved)

    def record_count(self, account_id: UUID, count: DialGrantCount) -> None:
        """Remembers a committed count of the account's grants (rights to dial a call), if it is higher than the known one."""
        if count > self._known.get(account_id, NO_GRANTS):
            self._known[account_id] = count
            self._unsaved.add(account_id)

    async def load(self) -> None:
        """Reads the grant counts that other workers have written to the folder since the last `load`.

        Does nothing if there is no folder. Raises OSError if reading fails.
        """
        if self._folder is not None:
            new = await asyncio.to_thread(self._folder.read_new_counts)
            for account_id, count in new.counts:
                if count > self._known.get(account_id, NO_GRANTS):
                    self._known[account_id] = count
            # Marked as read only now: a read that fails, is canceled or runs at the same time must not lose these lines.
            self._folder.mark_read(new.end_offsets)

    async def save(self) -> None:
        """Writes to the folder the grant counts that are not in it yet. Does nothing if there is no folder.

        If writing fails, logs the error and does not raise it. After a failure or a cancellation, the next `save` writes these
        counts again.
        """
        if self._folder is None or not self._unsaved:
            return
        saved, self._unsaved = self._unsaved, set()
        try:
            await asyncio.to_thread(self._folder.append, {each: self._known[each] for each in saved}, dict(self._known))
        except BaseException as error:
            self._unsaved |= saved
            if not isinstance(error, Exception):
                raise
            logger.error("grant_counters_not_saved", error=type(error).__name__, errno=getattr(error, "errno", None))

    async def touch_and_prune_files(self) -> None:
        """Marks this worker's file as in use, and deletes files that no worker has marked for a day.

        The caller must run `load` first: it reads the counts in the files that are then deleted. Before the deletion, this
        method copies all known counts to this worker's file. Raises OSError if a file cannot be changed or deleted.
        """
        if self._folder is not None:
            await asyncio.to_thread(self._folder.touch_and_prune_files, dict(self._known))


class _UnreadGrantCounts(NamedTuple):
    """The result of a read of the counter files: the grant counts in lines that were not read before.

    `end_offsets` has, for each file name, the byte offset up to which the file was read.
    """

    counts: list[tuple[UUID, DialGrantCount]]
    end_offsets: dict[str, int]


class _CounterFolder:
    """Reads and writes the files with grant counts (rights to dial a call) in a folder that workers share.

    Each worker has a file of its own. The methods block, so call them with `asyncio.to_thread`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own_file = folder / f"{uuid4()}{_FILE_SUFFIX}"
        # The number of bytes that were read from each file, by name.
        self._read_bytes: dict[str, int] = {}
        # Two threads may write. One of them must not delete the file that the other one has opened.
        self._write_lock = Lock()

    def read_new_counts(self) -> _UnreadGrantCounts:
        """Returns the counts of grants in the files of all workers, without the lines that `mark_read` has marked as read.

        Reads the folder again, at most _MAX_READ_ATTEMPTS times in all, if another worker deletes a file during the read. That
        worker has copied the file's counts to its own file before. Raises OSError if the folder or a file cannot be read.
        """
        new_lines = _UnreadGrantCounts([], {})
        for _ in range(_MAX_READ_ATTEMPTS):
            try:
                for file in self._files():
                    self._read_new_lines(file, new_lines)
            except FileNotFoundError:
                continue
            return new_lines
        raise FileNotFoundError

    def mark_read(self, end_offsets: Mapping[str, int]) -> None:
        """Marks each file in `end_offsets` (a dict by file name) as read up to the given byte offset, for `read_new_counts`."""
        for name, end in end_offsets.items():
            self._read_bytes[name] = max(end, self._read_bytes.get(name, 0))

    def _read_new_lines(self, file: Path, new_lines: _UnreadGrantCounts) -> None:
        begin = max(new_lines.end_offsets.get(file.name, 0), self._read_bytes.get(file.name, 0))
        if file.stat().st_size <= begin:
            return
        with file.open("rb") as stream:
            stream.seek(begin)
            # An incomplete line is being written, or its worker was killed. The call of its last grant was not dialled yet.
            text = stream.read().rpartition(b"\n")[0]
        new_lines.end_offsets[file.name] = begin + len(text) + bool(text)
        new_lines.counts.extend(count for line in text.splitlines() if (count := _parse_count_line(line)) is not None)

    def append(self, counts: Mapping[UUID, DialGrantCount], known: Mapping[UUID, DialGrantCount]) -> None:
        """Appends a line for each of `counts`, the accounts' new grant counts, to this worker's file.

        If there is no file yet, or if the file is too large, writes all `known` counts to a new file instead, and deletes the
        old one.
        """
        with self._write_lock:
            if self._own_file.exists() and self._own_file.stat().st_size > _MAX_FILE_BYTES:
                old, self._own_file = self._own_file, self._folder / f"{uuid4()}{_FILE_SUFFIX}"
                self._write(known)
                old.unlink()
            else:
                self._write(counts if self._own_file.exists() else known)

    def touch_and_prune_files(self, known: Mapping[UUID, DialGrantCount]) -> None:
        """Touches this worker's file, and deletes files that no worker has touched for a day.

        Does nothing if this worker has no file yet. Before the deletion, writes all `known` counts to this worker's file, so
        that no count is lost.
        """
        with self._write_lock:
            if not self._own_file.exists():
                return
            os.utime(self._own_file)
            now = self._own_file.stat().st_mtime
            old = [file for file in self._files() if now - file.stat().st_mtime > _MAX_FILE_AGE_S]
            if old:
                self._write(known)
            for file in old:
                file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(file for file in self._folder.iterdir() if file.suffix == _FILE_SUFFIX)

    def _write(self, counts: Mapping[UUID, DialGrantCount]) -> None:
        lines = "".join(f"{account_id} {count.released_at_us} {count.grants}\n" for account_id, count in counts.items())
        descriptor = os.open(self._own_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # The first line break ends a line that a full disk has cut off.
            content = f"\n{lines}".encode()
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _parse_count_line(line: bytes) -> tuple[UUID, DialGrantCount] | None:
    """Returns the account id and the grant count in a line of a counter file; None for a line that is empty or cut off."""
    try:
        account_id, released_at_us, grants = line.decode().split(" ")
        return UUID(account_id), DialGrantCount(int(released_at_us), int(grants))
    except ValueError:
        return None
