"""`callgate secrets`: shows how much data needs each encryption key, and re-encrypts secrets with the newest key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from app.cli.output import AsJson, configure_error_logging, show_table, show_values
from app.cli.processes import service_settings

if TYPE_CHECKING:
    from app.key_rotation import EncryptionKeyUse, KeyRotation

secrets = typer.Typer(help="Encryption keys and the secrets encrypted with them.", no_args_is_help=True)

Result = TypeVar("Result")


def _run_with_key_rotation(use_case: Callable[[KeyRotation], Awaitable[Result]]) -> Result:
    from app.database.engine import Database
    from app.key_rotation import KeyRotation
    from app.security.keyring import Keyring

    configure_error_logging()
    settings = service_settings()

    async def run() -> Result:
        database = Database(settings.require_database_url(), pool_size=1)
        try:
            return await use_case(KeyRotation(database, Keyring(settings.require_secret_keys())))
        finally:
            await database.close()

    return asyncio.run(run())


@secrets.command("status")
def show_key_uses(as_json: AsJson = False) -> None:
    """Show what each encryption key is needed for.

    `callgate secrets rotate` encrypts secrets with the newest key. An API key is hashed with the newest key at its next use. A
    call with an idempotency key needs the encryption key that was the newest when the call was created, until the call's record
    is deleted. The command reads all calls, which takes a while with millions of them. Secrets that cannot be decrypted are
    listed on standard error, and the exit code is then 1.
    """

    async def read(rotation: KeyRotation) -> tuple[list[EncryptionKeyUse], list[str]]:
        return await rotation.count_key_uses(), await rotation.find_unreadable_secrets()

    key_uses, unreadable = _run_with_key_rotation(read)
    rows = [
        {
            "key": use.key_id,
            "state": _key_state(use),
            "secrets": use.secrets,
            "api_keys": use.api_keys,
            "calls": use.calls,
            "may_go": "no" if use.is_needed else "yes",
        }
        for use in key_uses
    ]
    show_table(rows, columns=["key", "state", "secrets", "api_keys", "calls", "may_go"], as_json=as_json)
    for name in unreadable:
        typer.echo(f"callgate: cannot decrypt: {name}", err=True)
    if unreadable:
        raise typer.Exit(1)


@secrets.command("rotate")
def reencrypt_secrets(as_json: AsJson = False) -> None:
    """Re-encrypt all secrets with the newest key.

    The newest key is the first one in CALLGATE_SECRET_KEYS. All running processes must already have it: docs/rotation.md has
    the order of the steps. The command can run beside the service, be interrupted and be repeated. Exit code 1 if a secret
    cannot be decrypted with any of the keys.
    """
    from app.audit.events import command_actor

    result = _run_with_key_rotation(lambda rotation: rotation.reencrypt_secrets(command_actor()))
    unreadable = ", ".join(result.unreadable) or None
    show_values(
        {"sealed_anew": result.reencrypted_count, "unreadable": result.unreadable if as_json else unreadable}, as_json=as_json
    )
    if result.unreadable:
        raise typer.Exit(1)


def _key_state(use: EncryptionKeyUse) -> str:
    return "newest" if use.is_newest else "configured" if use.is_configured else "not configured"
