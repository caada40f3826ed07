"""`callgate tenants|accounts`: manages tenants and their Twilio accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from app.cli.output import AsJson, show_table, show_values
from app.cli.processes import service_settings
from app.cli.secret_input import read_secret

if TYPE_CHECKING:
    from app.database.pool import Pool
    from app.scheduling.administration import PaceAdministration
    from app.scheduling.pace_limits import PaceLimits
    from app.settings import Settings
    from app.tenants.administration import TenantAdministration
    from app.tenants.administration_store import AccountRow, CredentialRow, TenantRow

tenants = typer.Typer(help="Tenants: teams or products that place calls.", no_args_is_help=True)
accounts = typer.Typer(help="Twilio accounts of a tenant, and their credentials.", no_args_is_help=True)

TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
QueueArgument = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits and '._-', at most 63, such as reminders.")]
Result = TypeVar("Result")


def _parse_base_url(text: str) -> str:
    from app.setting_values import parse_twilio_base_url

    try:
        return parse_twilio_base_url(text)
    except ValueError as error:
        raise typer.BadParameter(f"it {error}; use a URL such as https://api.dublin.ie1.twilio.com") from None


def run_with_tenant_administration(use_case: Callable[[TenantAdministration], Awaitable[Result]]) -> Result:
    """Calls `use_case` with a TenantAdministration for the configured database, and returns the result of `use_case`."""
    from app.audit.events import command_actor
    from app.security.keyring import Keyring
    from app.tenants.administration import TenantAdministration

    keyring = Keyring(service_settings().require_secret_keys())
    return run_with_pool(lambda pool: use_case(TenantAdministration(pool, keyring, command_actor())))


def run_with_pace_administration(use_case: Callable[[PaceAdministration], Awaitable[Result]]) -> Result:
    """Calls `use_case` with a PaceAdministration for the configured database, and returns the result of `use_case`."""
    from app.audit.events import command_actor
    from app.scheduling.administration import PaceAdministration
    from app.security.keyring import Keyring

    keyring = Keyring(service_settings().require_secret_keys())
    return run_with_pool(lambda pool: use_case(PaceAdministration(pool, keyring, command_actor())))


def run_with_pool(use_case: Callable[[Pool], Awaitable[Result]]) -> Result:
    """Calls `use_case` with a new connection pool for the configured database, and returns the result of `use_case`."""
    return asyncio.run(run_with_pool_for_settings(service_settings(), use_case))


async def run_with_pool_for_settings(settings: Settings, use_case: Callable[[Pool], Awaitable[Result]]) -> Result:
    """Calls `use_case` with a new connection pool for the database in `settings`, and returns the result of `use_case`."""
    from app.database.connection import SESSION_SETTINGS, Connector
    from app.database.pool import Pool

    pool = Pool(Connector(settings.require_database_url(), SESSION_SETTINGS).connect)
    try:
        return await use_case(pool)
    finally:
        await pool.close()


@tenants.command("create")
def create_tenant(
    tenant: Annotated[str, typer.Argument(metavar="ID", help="Lower-case letters, digits and '-', at most 63.")],
    name: Annotated[str, typer.Option("--name", help="The display name.")],
    as_json: AsJson = False,
) -> None:
    """Create a tenant.

    A command that was cut off can be repeated: if the tenant ID exists with this NAME, it is shown, and nothing is changed.
    """
    show_values(
        _tenant_row(run_with_tenant_administration(lambda service: service.create_tenant(tenant, name=name))), as_json=as_json
    )


@tenants.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List all tenants."""
    rows = [_tenant_row(row) for row in run_with_tenant_administration(lambda service: service.list_tenants())]
    show_table(rows, columns=["id", "name", "state", "created_at"], as_json=as_json)


@tenants.command("show")
def show_tenant(tenant: TenantId, as_json: AsJson = False) -> None:
    """Show one tenant."""
    show_values(_tenant_row(run_with_tenant_administration(lambda service: service.get_tenant(tenant))), as_json=as_json)


@tenants.command("suspend")
def suspend_tenant(tenant: TenantId, as_json: AsJson = False) -> None:
    """Suspend a tenant.

    The tenant cannot create calls (403) until it is resumed. Its scheduled calls are not dialled until then, and expire at
    their `ring_by`. Its records stay readable, and calls under way continue.
    """
    show_values(
        _tenant_row(run_with_tenant_administration(lambda service: service.set_tenant_suspended(tenant, suspended=True))),
        as_json=as_json,
    )


@tenants.command("resume")
def resume_tenant(tenant: TenantId, as_json: AsJson = False) -> None:
    """Resume a suspended tenant."""
    show_values(
        _tenant_row(run_with_tenant_administration(lambda service: service.set_tenant_suspended(tenant, suspended=False))),
        as_json=as_json,
    )


@tenants.command("limits")
def set_tenant_limits(
    tenant: TenantId,
    max_in_flight: Annotated[
        int | None,
        typer.Option("--max-in-flight", help="Creations that one process sends to Twilio at the same time, 1 to 10000."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the tenant's own limits first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set or show a tenant's own limits.

    Without a limit of its own, CALLGATE_MAX_IN_FLIGHT_PER_TENANT applies to the tenant.
    """
    from app.tenants.administration_store import TenantSettings

    changes = TenantSettings()
    if max_in_flight is not None or clear:
        changes["max_in_flight"] = max_in_flight
    row = run_with_tenant_administration(lambda service: service.update_tenant(tenant, changes))
    show_values({"tenant": row.id, "max_in_flight": row.max_in_flight}, as_json=as_json)


@accounts.command("add")
def add_account(
    tenant: TenantId,
    account_sid: Annotated[str, typer.Option("--account-sid", help="AC and 32 hexadecimal digits.")],
    key_sid: Annotated[
        str | None, typer.Option("--key-sid", help="SK…: use this API key and its secret instead of the auth token.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            parser=_parse_base_url,
            metavar="URL",
            help="The base URL of this account's API, such as https://api.dublin.ie1.twilio.com.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a Twilio account or another credential.

    The credentials of an account are tried in order. A secret that is stored already is not stored again. The auth token or the
    key's secret is read from the environment (TWILIO_AUTH_TOKEN or TWILIO_API_SECRET), from standard input, or from a prompt.
    It is never an argument, which other users of the machine could see.
    """
    secret = read_twilio_secret(account_sid, key_sid)
    credential = run_with_tenant_administration(
        lambda service: service.add_credential(
            tenant, account_sid=account_sid, secret=secret, key_sid=key_sid, base_url=base_url
        )
    )
    show_values({"tenant": tenant, "account_sid": account_sid} | _credential_row(credential), as_json=as_json)


def read_twilio_secret(account_sid: str, key_sid: str | None) -> str:
    """Reads the secret of the API key `key_sid` or, if that is None, the auth token of the account.

    Reads from the environment (TWILIO_API_SECRET or TWILIO_AUTH_TOKEN), standard input or a prompt, as `read_secret` does.
    """
    if key_sid:
        return read_secret(f"Secret of {key_sid}", "TWILIO_API_SECRET")
    return read_secret(f"Auth token of {account_sid}", "TWILIO_AUTH_TOKEN")


@accounts.command("list")
def list_accounts(tenant: TenantId, as_json: AsJson = False) -> None:
    """List a tenant's accounts and active credentials.

    A call uses the first account with an active credential unless it names another. `pace` belongs to the account; `accounts
    pace` sets it. `created_at` and `last_used_at` belong to the credential; `last_used_at` is accurate to about a minute.
    """

    async def read(service: PaceAdministration) -> list[dict[str, Any]]:
        listed = await service.list_accounts(tenant)
        paces = await service.find_paces([row.id for row, _ in listed])
        rows = [_account_row(row, active, paces.get(row.id)) for row, credentials in listed for active in credentials]
        return rows + [_account_row(row, None, paces.get(row.id)) for row, credentials in listed if not credentials]

    rows = run_with_pace_administration(read)
    columns = ["account_sid", "credential", "kind", "username", "state", "base_url", "pace", "created_at", "last_used_at"]
    if not as_json:
        rows = [row | {"pace": row["pace"] and _pace_text(row["pace"])} for row in rows]
    show_table(rows, columns=columns, as_json=as_json)


@accounts.command("revoke")
def revoke_credential(
    tenant: TenantId,
    credential: Annotated[UUID, typer.Argument(metavar="CREDENTIAL", help="The id, from `callgate accounts list`.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a credential, so that it is never used again."""
    show_values(
        _credential_row(run_with_tenant_administration(lambda service: service.revoke_credential(tenant, credential))),
        as_json=as_json,
    )


def _tenant_row(row: TenantRow) -> dict[str, Any]:
    state = "suspended" if row.suspended_at else "active"
    return {"id": row.id, "name": row.name, "state": state, "created_at": row.created_at, "suspended_at": row.suspended_at}


def _credential_row(row: CredentialRow) -> dict[str, Any]:
    return {"credential": row.id, "kind": row.kind, "username": row.username, "revoked_at": row.revoked_at}


def _account_row(row: AccountRow, credential: CredentialRow | None, pace: PaceLimits | None) -> dict[str, Any]:
    return {
        "account_sid": row.account_sid,
        "credential": credential and credential.id,
        "kind": credential and credential.kind,
        "username": credential and credential.username,
        "state": credential and ("refused by Twilio" if credential.rejected_at else "active"),
        "rejected_at": credential and credential.rejected_at,
        "base_url": row.base_url,
        "pace": pace and pace.to_json(),
        "created_at": credential.created_at if credential else row.created_at,
        "last_used_at": credential and credential.last_used_at,
    }


def _pace_text(pace: dict[str, Any]) -> str:
    rate, concurrent = pace["calls_per_second"], pace["max_concurrent"]
    limits = [] if rate is None else [f"{rate}/s", f"burst {pace['burst']}"]
    return ", ".join(limits if concurrent is None else [*limits, f"{concurrent} at once"])
