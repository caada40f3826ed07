"""`callgate sip check`: reads SIP URIs and explains them, one on each line."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

sip = typer.Typer(help="SIP addresses.", no_args_is_help=True)


@sip.callback()
def _sip_command_group() -> None:
    """Does nothing. Typer makes `sip` a group of commands because it has this callback, although it has only one command."""


@sip.command("check")
def check_sip_uris(
    file: Annotated[
        str,
        typer.Argument(metavar="[FILE|-|URI]", help="A file of URIs, one per line; standard input by default; or one SIP URI."),
    ] = "-",
) -> None:
    """Explain SIP URIs.

    Reads one URI per line, as plain text or as a JSON string. Prints one JSON object per line with "uri", "valid", "findings"
    and "parsed". Exit code 1 if any URI has an error.
    """
    from app.sip import SipUri

    valid = True
    for line in _read_lines(file):
        for uri in _parse_uri_line(line):
            explained = SipUri.parse(uri)
            valid = valid and explained.valid
            typer.echo(json.dumps(explained.as_dict()))
    if not valid:
        raise typer.Exit(1)


def _read_lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
    elif file.lower().startswith(("sip:", "sips:")):
        yield os.fsencode(file)
    else:
        try:
            with Path(file).open("rb") as lines:
                yield from lines
        except OSError as error:
            raise typer.BadParameter(f"{file!r} is not a SIP URI, and reading it as a file failed: {error.strerror}") from None


def _parse_uri_line(line: bytes) -> Iterator[str]:
    """Yields the URI of a line, or nothing for an empty line.

    Keeps bytes that are not UTF-8 as surrogate characters, so that the parser reports the URI as invalid.
    """
    text = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if text.startswith('"'):
        try:
            decoded = json.loads(text)
        except ValueError:
            decoded = text
        yield decoded if isinstance(decoded, str) else text
    elif text:
        yield text
