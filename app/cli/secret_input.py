"""Reads a secret from a file, the environment, standard input or a prompt.

A secret is never read from an argument, because other users of the machine can see the arguments.
"""

import getpass
import os
import sys
from pathlib import Path

from app.tenants.errors import AdministrationError


def read_secret(prompt: str, variable: str, *, file: Path | None = None) -> str:
    """Returns the secret from the first source that is given: `file`, the environment variable `variable`, standard input.

    If standard input is a terminal, asks with `prompt`; otherwise reads the first line. Removes a byte order mark at the
    beginning, and white space around the secret. Raises AdministrationError if the source cannot be read as UTF-8 or the secret
    is empty, and KeyboardInterrupt if the prompt is interrupted. Must not be called inside an event loop: that would delay
    Ctrl-C.
    """
    try:
        if file is not None:
            source = f"the file {file}"
            secret = file.read_text(encoding="utf-8")
        elif variable in os.environ:
            source = variable
            secret = os.environ[variable]
        else:
            source = "standard input"
            # Not `typer.prompt`, with which an interrupted command has the exit code 1 instead of 130.
            secret = getpass.getpass(f"{prompt}: ", sys.stderr) if sys.stdin.isatty() else sys.stdin.readline()
        secret.encode()  # Python may have read bytes that are not UTF-8 as surrogate characters
    except (OSError, UnicodeError):
        raise AdministrationError(f"{source} cannot be read as text") from None
    secret = secret.removeprefix("\ufeff").strip()
    if not secret:
        raise AdministrationError(f"no secret was given: set {variable} or pass the secret on standard input")
    return secret
