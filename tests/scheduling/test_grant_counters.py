"""Tests the counts of granted calls, which each worker keeps in memory and in a folder that workers share."""

import asyncio
import os
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from app.scheduling.grant_counters import DialGrantCount, KnownGrantCounts


def files(folder: Path) -> set[Path]:
    return set(folder.iterdir())


async def saved(folder: Path, counts: dict[UUID, DialGrantCount]) -> KnownGrantCounts:
    counters = KnownGrantCounts(folder)
    await counters.load()
    for account_id, count in counts.items():
        counters.record_count(account_id, count)
    await counters.save()
    return counters


async def test_a_worker_knows_what_any_other_has_saved(tmp_path: Path) -> None:
    first, second = uuid4(), uuid4()
    one = await saved(tmp_path, {first: DialGrantCount(0, 7), second: DialGrantCount(0, 1)})
    other = await saved(tmp_path, {first: DialGrantCount(0, 3), second: DialGrantCount(0, 5)})
    assert other.known_counts() == {first: (0, 7), second: (0, 5)}
    await one.load()
    assert one.known_counts() == other.known_counts()
    assert one.is_below_known_count(first, DialGrantCount(0, 6))
    assert not one.is_below_known_count(first, DialGrantCount(0, 7))
    assert not one.is_below_known_count(uuid4(), DialGrantCount(0, 0))
    # After a release a lower count is right.
    assert not one.is_below_known_count(first, DialGrantCount(1, 2))
    one.record_count(first, DialGrantCount(1, 3))
    await one.save()
    await other.load()
    assert other.is_below_known_count(first, DialGrantCount(1, 2))
    assert other.is_below_known_count(first, DialGrantCount(0, 100))


async def test_what_was_read_before_a_failure_is_not_skipped(tmp_path: Path) -> None:
    account_id = uuid4()
    await saved(tmp_path, {account_id: DialGrantCount(0, 7)})
    unreadable = tmp_path / "~.grants"  # the last one by name
    unreadable.mkdir()
    reader = KnownGrantCounts(tmp_path)
    with pytest.raises(IsADirectoryError):
        await reader.load()
    unreadable.rmdir()
    await reader.load()
    assert reader.known_counts() == {account_id: (0, 7)}


async def test_of_two_reads_at_the_same_time_none_ends_before_it_knows_everything(tmp_path: Path) -> None:
    # As the watch and the first grant of a worker read: the other has read the first files and is at the later ones.
    accounts = [uuid4() for _ in range(300)]
    for account_id in accounts:
        (tmp_path / f"{account_id}.grants").write_text(f"{account_id} 0 1\n")
    for _ in range(20):
        reader = KnownGrantCounts(tmp_path)

        async def load(reader: KnownGrantCounts = reader) -> int:
            await reader.load()
            return len(reader.known_counts())

        assert set(await asyncio.gather(load(), load(), load())) == {300}


async def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    account_id = uuid4()
    counters = await saved(tmp_path, {account_id: DialGrantCount(0, 12)})
    (file,) = files(tmp_path)
    for rest in (f"{account_id} 0 99", "nonsense", "\x00"):
        with file.open("a") as stream:
            stream.write(rest)
        counters.record_count(
            account_id, counters.known_counts()[account_id]._replace(grants=counters.known_counts()[account_id].grants + 1)
        )
        await counters.save()
    reader = KnownGrantCounts(tmp_path)
    await reader.load()
    # "… 0 99", which was cut off, counts as a whole line once another one follows. Too high a count can only halt grants.
    assert reader.known_counts()[account_id] == (0, 99)


async def test_a_large_file_is_continued_in_a_new_one(tmp_path: Path) -> None:
    reader = KnownGrantCounts(tmp_path)
    counts = {uuid4(): DialGrantCount(0, number) for number in range(1, 30_001)}
    writer = await saved(tmp_path, counts)
    await reader.load()
    assert reader.known_counts() == counts
    (before,) = files(tmp_path)
    account_id = next(iter(counts))
    writer.record_count(account_id, DialGrantCount(0, 1_000_000))
    await writer.save()
    (after,) = files(tmp_path)
    assert after != before
    await reader.load()
    assert reader.known_counts() == counts | {account_id: DialGrantCount(0, 1_000_000)}


async def test_files_of_workers_that_are_gone_are_deleted_and_what_they_had_is_kept(tmp_path: Path) -> None:
    account_id, own = uuid4(), uuid4()
    counters = await saved(tmp_path, {own: DialGrantCount(0, 1)})
    (kept,) = files(tmp_path)
    await saved(tmp_path, {account_id: DialGrantCount(0, 4)})
    (old,) = files(tmp_path) - {kept}
    await counters.load()
    await counters.touch_and_prune_files()
    assert old.exists()
    os.utime(old, (0, 0))
    await counters.touch_and_prune_files()
    assert files(tmp_path) == {kept}
    reader = KnownGrantCounts(tmp_path)
    await reader.load()
    assert reader.known_counts() == {account_id: (0, 4), own: (0, 1)}


async def test_a_folder_that_cannot_be_read_is_an_error_and_a_failed_save_is_made_up_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, account_id = tmp_path / "missing", uuid4()
    counters = KnownGrantCounts(folder)
    with pytest.raises(FileNotFoundError):
        await counters.load()
    counters.record_count(account_id, DialGrantCount(0, 2))
    await counters.save()
    assert "grant_counters_not_saved" in capsys.readouterr().out
    assert counters.unsaved_count == 1
    folder.mkdir()
    await counters.save()
    assert counters.unsaved_count == 0
    reader = KnownGrantCounts(folder)
    await reader.load()
    assert reader.known_counts() == {account_id: (0, 2)}
