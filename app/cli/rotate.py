"""`callgate accounts rotate`: replaces a Twilio credential without a failed call or a refused callback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from app.cli.output import EXIT_RUN_AGAIN, AsJson, show_values
from app.cli.processes import service_settings
from app.cli.tenants import TenantId, read_twilio_secret, run_with_pool
from app.cli.times import parse_duration

if TYPE_CHECKING:
    from app.database.pool import Pool
    from app.tenants.administration_rotation import CredentialReplacement, CredentialRotation, RotationProgress

Result = TypeVar("Result")

_ROTATION_CHECK_INTERVAL_S = 10.0
_PROMOTE_ADVICE = """Now promote the secondary auth token at Twilio: in the console under API keys & tokens, or with
POST https://accounts.twilio.com/v1/AuthTokens/Promote. Until then Twilio signs callbacks with the old one, which stays."""


def register_commands(accounts: typer.Typer) -> None:
    accounts.command("rotate")(rotate_credential)


def rotate_credential(
    tenant: TenantId,
    account_sid: Annotated[str, typer.Argument(metavar="ACCOUNT_SID", help="AC and 32 hexadecimal digits.")],
    key_sid: Annotated[
        str | None, typer.Option("--key-sid", help="SK…: the new API key, which replaces another API key.")
    ] = None,
    replaced: Annotated[
        UUID | None,
        typer.Option("--replace", metavar="CREDENTIAL", help="The credential to replace, if the account has several."),
    ] = None,
    quiet: Annotated[
        timedelta,
        typer.Option(
            "--quiet",
            parser=parse_duration,
            metavar="DURATION",
            help="How long the old credential must be unused before it is revoked. Less than 2m may miss a use.",
        ),
    ] = "3m",  # type: ignore[assignment]  # the parser reads it
    wait: Annotated[bool, typer.Option(help="Wait for the next step; without it, exit with code 3 if there is one.")] = True,
    as_json: AsJson = False,
) -> None:
    """Replace an auth token or an API key without a failed call.

    Create the secondary auth token, or the new API key, at Twilio first. This command reads the secret as `accounts add` does
    and checks that Twilio accepts it. From then on the new credential is tried before the old one. For an auth token, promote
    it at Twilio next. An old auth token is revoked once Twilio refuses it and it has verified no callback for a while. An old
    API key is revoked once it has not been used for a while. Each step is stored: if the command is interrupted, run it again.
    """
    choice: dict[str, Any] = {"account_sid": account_sid, "key_sid": key_sid, "old_id": replaced}
    replacement = _run_with_credential_rotation(lambda rotation: rotation.find_replacement(tenant, **choice))
    if replacement is not None:
        _print_step(f"Continuing: credential {replacement.new.id} is tried before {replacement.old.id}.", as_json=as_json)
    else:
        secret = read_twilio_secret(account_sid, key_sid)
        replacement = _run_with_credential_rotation(
            lambda rotation: rotation.begin_replacement(tenant, secret=secret, **choice)
        )
        _print_step(_describe_rotation_start(replacement), as_json=as_json)
    progress = None
    if replacement is not None:
        progress = _run_with_credential_rotation(partial(_advance_rotation, replacement, quiet, wait=wait, as_json=as_json))
    show_values(_rotation_result(tenant, account_sid, replacement, progress), as_json=as_json)
    if progress is not None and progress.step != "done":
        raise typer.Exit(EXIT_RUN_AGAIN)


def _run_with_credential_rotation(use_case: Callable[[CredentialRotation], Awaitable[Result]]) -> Result:
    """Calls `use_case` with a CredentialRotation for the configured database, and returns the result of `use_case`."""
    from app.audit.events import command_actor
    from app.doctor.twilio_client import open_credential_checker
    from app.security.keyring import Keyring
    from app.tenants.administration_rotation import CredentialRotation

    settings = service_settings()

    async def run(pool: Pool) -> Result:
        async with open_credential_checker(settings) as check:
            return await use_case(CredentialRotation(pool, Keyring(settings.require_secret_keys()), command_actor(), check))

    return run_with_pool(run)


def _describe_rotation_start(replacement: CredentialReplacement | None) -> str:
    if replacement is None:
        return "This credential is already stored and replaces no other."
    return f"Twilio accepts the new credential. From now on {replacement.new.id} is tried before {replacement.old.id}."


async def _advance_rotation(
    replacement: CredentialReplacement, min_unused_time: timedelta, rotation: CredentialRotation, *, wait: bool, as_json: bool
) -> RotationProgress:
    """Does the next step of replacing a credential and returns the progress. With `wait`, does all steps and waits in between.

    Prints what must happen before the next step. The old credential is revoked only after it has been unused for
    `min_unused_time`.
    """
    printed = ""
    while True:
        progress = await rotation.advance_replacement(replacement, min_unused_time=min_unused_time)
        text = _describe_progress(progress)
        if text != printed:
            _print_step(text, as_json=as_json)
            printed = text
        if progress.step == "done" or not wait:
            return progress
        await asyncio.sleep(_ROTATION_CHECK_INTERVAL_S)


def _describe_progress(progress: RotationProgress) -> str:
    if progress.step == "promote":
        return _PROMOTE_ADVICE
    if progress.step == "wait" and progress.revoke_at is not None:
        used = progress.old.last_used_at
        last_use = f"was last used at {used.isoformat(timespec='seconds')}" if used else "was not used since it is recorded"
        return f"The old credential {last_use}. It is revoked at {progress.revoke_at.isoformat(timespec='seconds')}, if unused."
    if progress.old.kind == "api_key":
        return f"The old credential is revoked. Delete the API key {progress.old.username} at Twilio, too."
    return "The old credential is revoked."


def _print_step(text: str, *, as_json: bool) -> None:
    """Prints a step of the rotation: on standard output or, with `as_json`, on standard error."""
    typer.echo(text, err=as_json)


def _rotation_result(
    tenant: str, account_sid: str, replacement: CredentialReplacement | None, progress: RotationProgress | None
) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "account_sid": account_sid,
        "step": progress.step if progress else "done",
        "old": replacement and replacement.old.id,
        "new": replacement and replacement.new.id,
        "last_used_at": progress and progress.old.last_used_at,
        "revoke_at": progress and progress.revoke_at,
    }
