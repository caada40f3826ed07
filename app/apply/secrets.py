"""Reads the secrets to which a declaration refers, from environment variables and files. Error texts contain no secret."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.apply.document import DocumentInvalid, FileProblem, MemberPath
from app.apply.members import SecretReference
from app.apply.schemas import Declaration

_MAX_SECRET_BYTES: Final = 64 * 1024


class SecretMissing(Exception):
    """Raised if the variable or file that a reference names has no usable secret. The message gives the reason."""


def read_secrets(declaration: Declaration, environment: Mapping[str, str], folder: Path) -> dict[MemberPath, str]:
    """Reads every secret that the declaration refers to, from environment variables and files.

    Returns them by the path of the reference within the declaration. Relative names of files are resolved against `folder`.
    Raises DocumentInvalid, which names all secrets that cannot be read.
    """
    secrets: dict[MemberPath, str] = {}
    problems: list[FileProblem] = []
    for path, reference in declaration.secret_references_with_paths():
        try:
            secrets[path] = _read_secret(reference, environment, folder)
        except SecretMissing as error:
            problems.append(FileProblem(str(error), (*path, "env" if reference.env is not None else "file")))
    if problems:
        raise DocumentInvalid(*problems)
    return secrets


def _read_secret(reference: SecretReference, environment: Mapping[str, str], folder: Path) -> str:
    if reference.env is not None:
        secret = environment.get(reference.env, "").strip()
        source = "this environment variable"
    else:
        secret = _read_file(folder / (reference.file or ""))
        source = "this file"
    if not secret:
        raise SecretMissing(f"{source} is not set or empty" if reference.env else f"{source} is empty")
    if not secret.isprintable():
        raise SecretMissing(f"{source} has more than one line, or control characters")
    return secret


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretMissing(f"this file cannot be read: {error.strerror}") from None
    except ValueError:
        raise SecretMissing("this is not the path of a file") from None
    if len(content) > _MAX_SECRET_BYTES:
        raise SecretMissing(f"this file is larger than {_MAX_SECRET_BYTES // 1024} KiB")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise SecretMissing("this file is not text") from None
