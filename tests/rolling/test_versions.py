"""The previous version and this one work on the same database while migrations run."""

from pathlib import Path

import pytest

from tests.rolling.versions import before_the_newest_migration, roll


async def test_the_previous_version_and_this_one_work_together_during_a_roll_out(
    empty_database_url: str, tmp_path: Path
) -> None:
    revision = before_the_newest_migration()
    if revision is None:
        pytest.skip("the repository has no history with a previous version")
    await roll(revision, empty_database_url, tmp_path)
