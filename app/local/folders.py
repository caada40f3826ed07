"""Where the embedded PostgreSQL may keep its data. As root it runs as nobody, who cannot reach every folder."""

import os
import re
import stat
import tempfile
from pathlib import Path


def is_ours(folder: Path) -> bool:
    """There, no link, and no folder that another user made or can change."""
    real = folder.is_dir() and not folder.is_symlink()
    return real and folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o022


def nobody_reaches(folder: Path) -> bool:
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def remembered_elsewhere(directory: Path) -> Path | None:
    """The folder used instead for this state folder, not for one it is a copy of, if it is still ours."""
    pointer = directory / "postgres.elsewhere"
    if not pointer.exists():
        return None
    folder, _, made_for = pointer.read_text().partition("\n")
    # It will be removed with all that is in it, so its name must be one that we gave, whatever the file says.
    if not re.fullmatch(r"/.+/callgate-\w+", folder) or made_for != str(directory):
        return None
    return Path(folder) if is_ours(Path(folder)) else None


def make_folder_elsewhere(directory: Path) -> Path | None:
    """A folder that nobody can reach, remembered for this state folder; None when there is no place for one."""
    for parent in (Path("/var/tmp"), Path(tempfile.gettempdir()).resolve()):  # noqa: S108 - mkdtemp is safe there
        if parent.is_dir() and nobody_reaches(parent):
            folder = tempfile.mkdtemp(prefix="callgate-", dir=parent)
            (directory / "postgres.elsewhere").write_text(f"{folder}\n{directory}")
            return Path(folder)
    return None
