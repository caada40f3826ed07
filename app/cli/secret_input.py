"""Reads a secret from a file, the environment, standard input or a prompt: never from an argument, which others can see."""

import os
import sys
from pathlib import Path

import typer

from app.tenants.errors import OperatorError


def read_secret(prompt: str, variable: str, *, file: Path | None = None) -> str:
    """Returns the secret in `file`, in the environment's `variable`, or in the first line of standard input.

    On a terminal it is asked for. White space around it is dropped. Raises OperatorError if there is none.
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
