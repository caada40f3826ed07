"""`callgate secrets`: what the encryption keys are needed for, and sealing anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from app.cli.output import AsJson, log_errors, show, show_table
from app.cli.processes import service_settings

if TYPE_CHECKING:
    from app.rotation import KeyUse, Rotation

secrets = typer.Typer(help="Encryption keys, and what is sealed with them.", no_args_is_help=True)

Result = TypeVar("Result")


def _ask(question: Callable[[Rotation], Awaitable[Result]]) -> Result:
    from app.database.engine import Database
    from app.rotation import Rotation
    from app.security.keyring import Keyring

    log_errors()
    settings = service_settings()

    async def run() -> Result:
        database = Database(settings.require_database_url(), pool_size=1)
        try:
            return await question(Rotation(database, Keyring(settings.require_secret_keys())))
        finally:
            await database.close()

    return asyncio.run(run())


@secrets.command("status")
def status(as_json: AsJson = False) -> None:
    """Show what each encryption key is needed for.

    Secrets are sealed anew by `callgate secrets rotate`, API keys hashed anew when they are shown the next time; calls with an
    idempotency key keep what they were made with for as long as their record is kept. All calls are read: with millions of
    them it takes a while. Secrets that do not open are named on standard error; exit code 1 when there are any.
    """

    async def ask(rotation: Rotation) -> tuple[list[KeyUse], list[str]]:
        return await rotation.key_uses(), await rotation.unreadable()

    key_uses, unreadable = _ask(ask)
    rows = [
        {
            "key": use.key_id,
            "state": _state(use),
            "secrets": use.secrets,
            "api_keys": use.api_keys,
            "calls": use.calls,
            "may_go": "no" if use.is_needed else "yes",
        }
        for use in key_uses
    ]
    show_table(rows, columns=["key", "state", "secrets", "api_keys", "calls", "may_go"], as_json=as_json)
    for name in unreadable:
        typer.echo(f"callgate: does not open: {name}", err=True)
    if unreadable:
        raise typer.Exit(1)


@secrets.command("rotate")
def rotate(as_json: AsJson = False) -> None:
    """Seal everything anew with the newest key (the first of CALLGATE_SECRET_KEYS).

    It may be run while the service does, be interrupted, and be repeated. Every running process has to know the newest key
    by then: docs/rotation.md says in which order. Exit code 1 when a secret does not open with any of the keys.
    """
    resealed = _ask(lambda rotation: rotation.reseal())
    unreadable = ", ".join(resealed.unreadable) or None
    show({"sealed_anew": resealed.resealed, "unreadable": resealed.unreadable if as_json else unreadable}, as_json=as_json)
    if resealed.unreadable:
        raise typer.Exit(1)


def _state(use: KeyUse) -> str:
    return "newest" if use.is_newest else "configured" if use.is_configured else "not configured"
