"""Reads a secret from a file, the environment, standard input or a prompt.

A secret is never read from an argument, because other users of the machine can see the arguments.
"""

import os
import sys
from pathlib import Path

import typer

from app.tenants.errors import OperatorError


def read_secret(prompt: str, variable: str, *, file: Path | None = None) -> str:
    """Returns the secret from the first source that is given: `file`, the environment variable `variable`, standard input.

    If standard input is a terminal, asks with `prompt`; otherwise reads the first line. Removes white space around the secret.
    Raises OperatorError if the file cannot be read or the secret is empty.
    """
    if file is not None:
        try:
            secret = file.read_text()
        except (OSError, UnicodeDecodeError):
            raise OperatorError(f"the file {file} cannot be read as text") from None
    elif (given := os.environ.get(variable)) is not None:
        secret = given
    else:
        secret = typer.prompt(prompt, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    secret = secret.strip()
    if not secret:
        raise OperatorError(f"no secret was given: set {variable} or pass the secret on standard input")
    return secret
