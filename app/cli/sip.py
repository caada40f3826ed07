"""`callgate sip check`: SIP URIs in, explanations out, one a line."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

sip = typer.Typer(help="SIP addresses.", no_args_is_help=True)


@sip.callback()
def _sip() -> None:
    """A group of its own even with one command."""


@sip.command("check")
def check(
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-|URI]", help="One URI a line; standard input by default. Or one SIP URI itself.")
    ] = "-",
) -> None:
    """Explain SIP URIs: one a line in, as plain text or a JSON string; one JSON object a line out.

    Each line out holds "uri", "valid", "findings" and "parsed". Exit code 1 when any URI has an error.
    """
    from app.sip import SipUri

    valid = True
    for line in _lines(file):
        for uri in _uri_of(line):
            explained = SipUri.parse(uri)
            valid = valid and explained.valid
            typer.echo(json.dumps(explained.as_dict()))
    if not valid:
        raise typer.Exit(1)


def _lines(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
    elif file.lower().startswith(("sip:", "sips:")):
        yield os.fsencode(file)
    else:
        try:
            with Path(file).open("rb") as lines:
                yield from lines
        except OSError as error:
            raise typer.BadParameter(f"{file!r} is no SIP URI, and as a file: {error.strerror}") from None


def _uri_of(line: bytes) -> Iterator[str]:
    """The URI of a line, nothing for an empty one. Bytes that are not UTF-8 stay visible as what they are: wrong."""
    text = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if text.startswith('"'):
        try:
            decoded = json.loads(text)
        except ValueError:
            decoded = text
        yield decoded if isinstance(decoded, str) else text
    elif text:
        yield text
