from collections.abc import Iterator
from pathlib import Path

import pytest

from app.local.postgres import remove


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state folder of the test's own; removed where Postgres had to put its data too."""
    yield tmp_path / "state"
    remove(tmp_path / "state")


@pytest.fixture(scope="module")
def shared_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests of a module, which start over it one after the other."""
    directory = tmp_path_factory.mktemp("callgate") / "state"
    yield directory
    remove(directory)
