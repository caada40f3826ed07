"""The console's scripts, styles and icon. The URL of a file contains the file's hash, so browsers may cache it for ever."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from app.http.operations import CONSOLE_PREFIX

_MEDIA_TYPES: Final = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_DIGEST_HEX_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Asset:
    name: str
    media_type: str
    content: bytes
    compressed: bytes
    digest: str

    @property
    def path(self) -> str:
        return f"{CONSOLE_PREFIX}/static/{self.digest}/{self.name}"


@cache
def assets() -> dict[str, Asset]:
    """Returns the files of app/console/static that browsers load, by file name."""
    found = {}
    for file in files("app.console").joinpath("static").iterdir():
        media_type = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:_DIGEST_HEX_DIGITS]
            found[file.name] = Asset(file.name, media_type, content, gzip.compress(content, 9, mtime=0), digest)
    return found
