"""`callgate keys`: manages the API keys of tenants and operators."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import AsJson, creating_secret_to_print, output_errors_as, show_table, show_values
from app.cli.tenants import run_with_tenant_administration
from app.cli.times import parse_future_time
from app.errors import CommandFailed
from app.tenants.api_keys import ApiKeyFormat
from app.tenants.scopes import Scope

if TYPE_CHECKING:
    from app.tenants.administration_store import ApiKeyRow

keys = typer.Typer(help="API keys that a tenant's services or an operator's tools send to Callgate.", no_args_is_help=True)

OptionalTenantId = Annotated[str | None, typer.Argument(metavar="TENANT", help="The tenant's id; none with --operator.")]


def require_tenant_or_operator(tenant: str | None, operator: bool) -> str | None:
    """Returns the owner of keys: the tenant, or None for operators.

    Raises BadParameter if both a tenant and `operator` are given, or neither.
    """
    if operator == (tenant is not None):
        raise typer.BadParameter("give a tenant, or --operator for keys of operators")
    return tenant


@keys.command("create")
def create_key(
    tenant: OptionalTenantId = None,
    operator: Annotated[bool, typer.Option("--operator", help="An operator's key: it has no tenant.")] = False,
    scopes: Annotated[
        list[Scope] | None,
        typer.Option(
            "--scope",
            help="What the key may do; repeat it for several. Default: call and read, for an operator's key all.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name, such as the service that uses the key.")] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            "--expires",
            parser=parse_future_time,
            metavar="WHEN",
            help="The expiry: 90d, 12h, 30m or a time such as 2027-01-31T12:00:00Z; none by default.",
        ),
    ] = None,
    key_format: Annotated[
        ApiKeyFormat,
        typer.Option("--format", help="twilio: 32 hexadecimal digits like a Twilio auth token, printed without labels."),
    ] = "callgate",
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it.

    The key is printed only this time, because Callgate stores only a keyed hash of it.
    """
    from app.tenants.caller import COMMAND_LINE_CALLER

    owner = require_tenant_or_operator(tenant, operator)
    find = f"`callgate keys list {owner or '--operator'}`"
    with creating_secret_to_print(
        in_doubt=f"a key that was not printed may exist: look for it in {find}, revoke it, and run the command again"
    ):
        row, key = run_with_tenant_administration(
            lambda service: service.create_key(
                owner, name=name, scopes=scopes, expires_at=expires, key_format=key_format, creator=COMMAND_LINE_CALLER
            )
        )
    made = {
        "id": row.prefix,
        "key": key,
        "tenant": tenant,
        "scopes": row.scopes,
        "name": name,
        "expires_at": row.expires_at,
    }
    revoke = f"revoke it with `callgate keys revoke {row.prefix}`"
    with output_errors_as(CommandFailed(f"the key {row.prefix} was created, but could not be printed: {revoke}")):
        if key_format == "twilio" and not as_json:
            typer.echo(made.pop("key"))
            show_values(made, as_json=False, to_stderr=True)
        else:
            show_values(made, as_json=as_json)


@keys.command("list")
def list_keys(
    tenant: OptionalTenantId = None,
    operator: Annotated[bool, typer.Option("--operator", help="List the keys of operators.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a tenant's or the operators' API keys by id. The keys themselves are not stored.

    `last_used_at` is accurate to about a minute.
    """
    owner = require_tenant_or_operator(tenant, operator)
    rows = [_key_row(row) for row in run_with_tenant_administration(lambda service: service.list_keys(owner))]
    show_table(rows, columns=["id", "name", "scopes", "state", "created_at", "expires_at", "last_used_at"], as_json=as_json)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id (cgk_…), from `callgate keys list`.")],
    as_json: AsJson = False,
) -> None:
    """Revoke an API key, so that it is refused from now on."""
    show_values(_key_row(run_with_tenant_administration(lambda service: service.revoke_key(key))), as_json=as_json)


def _key_row(row: ApiKeyRow) -> dict[str, Any]:
    return {
        "id": row.prefix,
        "tenant": row.tenant_id,
        "scopes": row.scopes,
        "name": row.name,
        "state": row.state_at(datetime.now(UTC)),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
    }
