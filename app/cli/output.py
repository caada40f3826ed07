"""Prints the results of commands as text, or as JSON with `--json`."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from app.errors import CommandFailed, CommandUnfinished, DatabaseUnavailable

EXIT_RUN_AGAIN: Final = CommandUnfinished.exit_code

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def configure_error_logging() -> None:
    """Configures logging: messages of level ERROR and above go to stderr.

    Importing the logging code takes 0.25 s. Commands that log nothing therefore do not call this function.
    """
    from app.observability.logs import configure_logging

    configure_logging(level="ERROR", format_="text", stream=sys.stderr)


@contextmanager
def creating_secret_to_print(*, in_doubt: str) -> Iterator[None]:
    """Runs the block, which creates a secret that is printed only once.

    Raises CommandFailed before the block if standard output is closed. Raises CommandUnfinished with the message `in_doubt` if
    it is not certain whether the block has created the secret.
    """
    if sys.stdout is None:
        raise CommandFailed("standard output is closed, so the secret could not be printed: nothing was changed")
    try:
        yield
    except DatabaseUnavailable as error:
        if not error.commit_in_doubt:
            raise
        raise CommandUnfinished(f"the connection to the database was lost at the commit, so {in_doubt}") from error


@contextmanager
def output_errors_as(failure: CommandFailed) -> Iterator[None]:
    """Raises `failure` if the block cannot write its output. Use it where the command has already committed its change."""
    try:
        yield
    except OSError as error:
        drop_unwritable_output()
        raise failure from error


def drop_unwritable_output() -> None:
    """Discards the rest of the output of each standard stream that cannot be written.

    Otherwise Python would try to write the rest when the process ends, fail, and end with another exit code.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_values(values: Mapping[str, Any], *, as_json: bool, to_stderr: bool = False) -> None:
    """Prints one object: a line for each member, or JSON with `as_json`."""
    if as_json:
        typer.echo(json.dumps(values, default=_json_fallback_text), err=to_stderr)
        return
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name:<{width}}  {_format_cell(value)}", err=to_stderr)


def show_table(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str], as_json: bool) -> None:
    """Prints objects as a table with these columns or, with `as_json`, as a JSON array with all members."""
    if as_json:
        typer.echo(json.dumps(list(rows), default=_json_fallback_text))
        return
    cells = [[column.upper() for column in columns], *([_format_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _format_cell(value: Any) -> str:
    """Returns the value as text in one line. Escapes control characters, with which a stored name could forge a line."""
    if isinstance(value, list):
        return ",".join(map(_format_cell, value))
    text = "-" if value is None else _json_fallback_text(value)
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _json_fallback_text(value: Any) -> str:
    """Converts a value for which JSON has no type: a time to ISO 8601, any other value with `str`."""
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
