"""What commands print: lines for people, or JSON with `--json`."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def log_errors() -> None:
    """For commands whose code logs: errors only, on standard error. The others spare the import, a quarter of a second."""
    from app.observability.logs import configure_logging

    configure_logging(level="ERROR", format_="text", stream=sys.stderr)


def show(values: Mapping[str, Any], *, as_json: bool, err: bool = False) -> None:
    """One thing; `err` sends it to standard error."""
    if as_json:
        typer.echo(json.dumps(values, default=_plain), err=err)
        return
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name:<{width}}  {_shown(value)}", err=err)


def show_table(rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str], as_json: bool) -> None:
    """Many things: a table, or a JSON array."""
    if as_json:
        typer.echo(json.dumps(list(rows), default=_plain))
        return
    cells = [[column.upper() for column in columns], *([_shown(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _shown(value: Any) -> str:
    return "-" if value is None else str(_plain(value))


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
