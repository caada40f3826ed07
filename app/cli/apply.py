"""`callgate apply`: creates and changes tenants so that they match a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.output import AsJson, output_errors_as
from app.cli.processes import service_settings
from app.errors import CommandFailed, CommandUnfinished

if TYPE_CHECKING:
    from app.apply.changes import ChangePlan, DeclaredChange
    from app.apply.document import Document, FileProblem
    from app.settings import Settings

EXIT_DIFFERENCE: Final = 2
"""The exit code of a dry run that found a difference."""
_STANDARD_INPUT: Final = "-"
_URL_QUERY: Final = re.compile(r"\?.*", re.DOTALL)


def apply(
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="The file, YAML or JSON; - for standard input.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the difference. Exit code 2 if there is one, 0 if there is none.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create and change tenants as a file declares.

    Creates and changes what the file names. What it does not name stays; `revoked: […]` lists what is removed, and `suspended:
    true` stops a tenant. Secrets are written as {env: NAME} or {file: PATH}. All changes are made in one transaction, or none.
    Exit code 1 if the file is invalid or the changes cannot be made, and 3 if the command must be run again.
    """
    if schema:
        from app.apply.schemas import declaration_json_schema

        typer.echo(json.dumps(declaration_json_schema(), indent=2, ensure_ascii=False))
        return
    if file is None:
        raise CommandFailed("no file was given: use --file FILE, or --file - for standard input")
    document, plan = _run_apply(_read_declaration(file), file, _load_settings(), dry_run=dry_run)
    unprinted = CommandUnfinished("all changes were made, but could not be printed")
    with contextlib.nullcontext() if dry_run else output_errors_as(unprinted):
        for note in plan.notes:
            typer.echo(f"callgate: note: {_problem_line(note, document, file)}", err=True)
        _print_plan(plan, dry_run=dry_run, as_json=as_json)
    if dry_run and plan.changes:
        raise typer.Exit(EXIT_DIFFERENCE)


def _load_settings() -> Settings:
    """Returns the settings. If they are missing or invalid, raises CommandFailed, so that the exit code is 1.

    A SettingsError would end the command with exit code 2, which means here that `--dry-run` found a difference.
    """
    from app.settings import SettingsError

    try:
        return service_settings()
    except SettingsError as error:
        raise CommandFailed(str(error)) from None


def _read_declaration(file: str) -> bytes:
    from app.apply.document import MAX_FILE_BYTES

    try:
        if file == _STANDARD_INPUT:
            return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}") from None


def _run_apply(content: bytes, file: str, settings: Settings, *, dry_run: bool) -> tuple[Document, ChangePlan]:
    from app.apply.document import Document, DocumentInvalid, read_document
    from app.apply.secrets import read_secrets
    from app.apply.service import DeclarationService
    from app.apply.store import APPLY_SESSION_SETTINGS, STATEMENT_TIMEOUT_S
    from app.apply.validation import validate_declaration
    from app.audit.events import command_actor
    from app.database.connection import Connector
    from app.database.pool import Pool
    from app.deliveries.addresses import AllowList
    from app.security.keyring import Keyring

    document = Document(None)
    folder = Path.cwd() if file == _STANDARD_INPUT else Path(file).parent

    async def run() -> ChangePlan:
        url = settings.require_database_url()
        pool = Pool(Connector(url, APPLY_SESSION_SETTINGS, statement_timeout_s=STATEMENT_TIMEOUT_S).connect)
        service = DeclarationService(
            pool, Keyring(settings.require_secret_keys()), command_actor("apply"), settings.workload_issuer
        )
        try:
            return await (service.preview_changes if dry_run else service.apply_declaration)(declaration, secrets)
        finally:
            await pool.close()

    try:
        document = read_document(content)
        declaration = validate_declaration(
            document, allowed=AllowList.parse(settings.delivery_allow), workload_issuer=settings.workload_issuer
        )
        secrets = read_secrets(declaration, os.environ, folder)
        plan = asyncio.run(run())
    except DocumentInvalid as error:
        for problem in error.problems:
            typer.echo(f"callgate: {_problem_line(problem, document, file)}", err=True)
        raise typer.Exit(1) from None
    return document, plan


def _problem_line(problem: FileProblem, document: Document, file: str) -> str:
    """Returns the problem as one line of text: the file, the line number, the member (if any) and the description."""
    from app.apply.document import member_path_text

    name = "<stdin>" if file == _STANDARD_INPUT else file
    line = problem.line or document.line_of(problem.path)
    member = member_path_text(problem.path)
    return f"{name}:{line}: {member}: {problem.text}" if member else f"{name}:{line}: {problem.text}"


def _print_plan(plan: ChangePlan, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"applied": not dry_run, "changes": [_change_json(change) for change in plan.changes]}))
        return
    for change in plan.changes:
        typer.echo(_change_line(change))
    if not plan.changes:
        typer.echo("no changes")
    elif dry_run:
        typer.echo(f"{_change_count_text(plan)} would be made")
    else:
        typer.echo(f"{_change_count_text(plan)} made")


def _change_count_text(plan: ChangePlan) -> str:
    return "1 change" if len(plan.changes) == 1 else f"{len(plan.changes)} changes"


def _change_line(change: DeclaredChange) -> str:
    line = f"tenant {change.tenant_id}: {change.action} {change.subject}"
    members = [
        f"{name} {_value_text(after)}" if change.action == "create" else f"{name} {_value_text(before)} -> {_value_text(after)}"
        for name, (before, after) in change.members.items()
    ]
    return f"{line}: {', '.join(members)}" if members else line


def _change_json(change: DeclaredChange) -> dict[str, Any]:
    members = {
        name: {"before": _url_without_query(before), "after": _url_without_query(after)}
        for name, (before, after) in change.members.items()
    }
    return {"tenant": change.tenant_id, "action": change.action, "subject": change.subject, "members": members}


def _value_text(value: Any) -> str:
    return "-" if value is None else json.dumps(_url_without_query(value), ensure_ascii=False)


def _url_without_query(value: Any) -> Any:
    """Returns a URL with `?…` instead of its query, which may contain a secret. Returns any other value unchanged."""
    return _URL_QUERY.sub("?…", value) if isinstance(value, str) and "://" in value else value
