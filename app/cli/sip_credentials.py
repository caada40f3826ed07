"""`callgate sip-credentials`: manages user names and passwords of SIP endpoints. Requests for calls refer to them by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import AsJson, show_table, show_values
from app.cli.secret_input import read_secret
from app.cli.tenants import TenantId, run_with_tenant_administration

if TYPE_CHECKING:
    from app.tenants.administration import TenantAdministration
    from app.tenants.sip_credential_store import SipCredentialRow

sip_credentials = typer.Typer(
    help="SIP credentials of a tenant. Its creations name one instead of sending user name and password.", no_args_is_help=True
)

SipCredentialName = Annotated[
    str, typer.Argument(metavar="NAME", help="Letters, digits and '._-', at most 63, such as pbx-berlin.")
]


@sip_credentials.command("create")
def create_sip_credential(
    tenant: TenantId,
    name: SipCredentialName,
    username: Annotated[str, typer.Option("--username", help="The user name for the digest authentication.")],
    password_file: Annotated[Path | None, typer.Option("--password-file", help="A file that holds the password.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace user name and password of an existing one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Store a user name and password under a name.

    The password is read from the file, from the environment (SIP_AUTH_PASSWORD), from standard input, or from a prompt. It is
    never an argument, which other users of the machine could see. Calls that are placed later use the new values.
    """
    password = read_secret(f"Password of {username}", "SIP_AUTH_PASSWORD", file=password_file)

    async def store(service: TenantAdministration) -> SipCredentialRow:
        if replace:
            return await service.replace_sip_credential(tenant, name, username=username, password=password)
        row, _ = await service.create_sip_credential(tenant, name, username=username, password=password)
        return row

    show_values(_sip_credential_row(run_with_tenant_administration(store)), as_json=as_json)


@sip_credentials.command("list")
def list_sip_credentials(tenant: TenantId, as_json: AsJson = False) -> None:
    """List a tenant's SIP credentials by name. User names and passwords are not shown."""
    rows = [
        _sip_credential_row(row) for row in run_with_tenant_administration(lambda service: service.list_sip_credentials(tenant))
    ]
    show_table(rows, columns=["name", "created_at", "updated_at"], as_json=as_json)


@sip_credentials.command("delete")
def delete_sip_credential(tenant: TenantId, name: SipCredentialName, as_json: AsJson = False) -> None:
    """Delete a SIP credential. Creations that name it are refused from now on."""
    show_values(
        _sip_credential_row(run_with_tenant_administration(lambda service: service.delete_sip_credential(tenant, name))),
        as_json=as_json,
    )


def _sip_credential_row(row: SipCredentialRow) -> dict[str, Any]:
    return {"name": row.name, "tenant": row.tenant_id, "created_at": row.created_at, "updated_at": row.updated_at}
