from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.postgres import remove_postgres_data


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state folder for one test. Deletes the folder's Postgres data afterwards, even if they are in another folder."""
    yield tmp_path / "state"
    remove_postgres_data(tmp_path / "state")


@pytest.fixture(scope="module")
def shared_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder that all tests of a module share. They use it in the order in which they are written."""
    directory = tmp_path_factory.mktemp("callgate") / "state"
    yield directory
    remove_postgres_data(directory)
