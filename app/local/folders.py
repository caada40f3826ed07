"""Finds a folder for the data of the embedded PostgreSQL.

PostgreSQL refuses to run as root. So a process of root starts it as the user `nobody`, which needs access to the folder.
"""

import os
import re
import stat
import tempfile
from pathlib import Path


def is_private_folder(folder: Path) -> bool:
    """Returns whether the folder belongs to the current user, is no symbolic link, and is not writable for any other user."""
    real = folder.is_dir() and not folder.is_symlink()
    return real and folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o022


def is_open_to_all_users(folder: Path) -> bool:
    """Returns whether every user of the machine may enter the folder and all folders above it."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents))


def recorded_replacement_folder(directory: Path) -> Path | None:
    """Returns the folder that `create_replacement_folder` has created for the state folder `directory`, or None.

    Returns None if none was created, if the folder is not a private folder of this user, or if `directory` is a copy of the
    state folder for which it was created.
    """
    pointer = directory / "postgres.elsewhere"
    if not pointer.exists():
        return None
    folder, _, made_for = pointer.read_text().partition("\n")
    # `callgate clean` removes this folder with its content, so only a name that we generated is accepted. A copied state folder
    # names the folder of the original: `made_for` differs.
    if not re.fullmatch(r"/.+/callgate-\w+", folder) or made_for != str(directory):
        return None
    return Path(folder) if is_private_folder(Path(folder)) else None


def create_replacement_folder(directory: Path) -> Path | None:
    """Creates a folder for PostgreSQL's data outside of the state folder `directory`, and writes its path to a file there.

    PostgreSQL refuses to run as root. For root, it is started as the user `nobody`, who may have no access to `directory`. The
    new folder is in /var/tmp or, if `nobody` has no access to that, in the system's folder for temporary files. Returns None if
    `nobody` has access to neither.
    """
    for parent in (Path("/var/tmp"), Path(tempfile.gettempdir()).resolve()):  # noqa: S108 - mkdtemp is safe there
        if parent.is_dir() and is_open_to_all_users(parent):
            folder = tempfile.mkdtemp(prefix="callgate-", dir=parent)
            (directory / "postgres.elsewhere").write_text(f"{folder}\n{directory}")
            return Path(folder)
    return None
