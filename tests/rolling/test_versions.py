"""The version before and this one, over one database, while the migrations run."""

from pathlib import Path

import pytest

from tests.rolling.versions import before_the_newest_migration, roll


async def test_a_roll_out_from_the_version_before_the_newest_migration_harms_nobody(
    empty_database_url: str, tmp_path: Path
) -> None:
    revision = before_the_newest_migration()
    if revision is None:
        pytest.skip("no history here to take the version before from")
    await roll(revision, empty_database_url, tmp_path)
